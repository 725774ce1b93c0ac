# SPDX-License-Identifier: Apache-2.0
"""``build --native all`` from pins to a wheel, on a small release with upstream's own build."""

from __future__ import annotations

import ctypes
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe.compile.toolchain.environment import NativeEnv
from tests.integration.standin import files
from tests.recipe import small
from tests.recipe.compiling import make_compiling
from tests.recipe.inners import cutlass_files
from tests.recipe.repo import Repository, new_repository
from tests.recipe.server import serve
from tests.recipe.world import Done, World, copy_recipe

TREE = {
    **small.TREE,
    **{name: text.encode() for name, text in files().items() if name != "vllm/__init__.py"},
    "CMakeLists.txt": small.CMAKE + files()["CMakeLists.txt"].encode(),
}
VERSION = "v4.9.0"
BETTER = b'extern "C" const char* arch() { return "patched " ARCH; }\n'
NOTE = b"said = 'by the overlay'\n"


@pytest.fixture(scope="module")
def shared(tools: NativeEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for the module; its package index is all the network there is."""
    folder = tmp_path_factory.mktemp("whole")
    copy_recipe(folder / "code")
    # vLLM's own build takes twelve gigabytes; this one takes none.
    module = folder / "code" / "recipe" / "compile" / "whole.py"
    text = module.read_text(encoding="utf-8")
    module.write_text(
        text.replace("ROOM_BYTES = 12 << 30", "ROOM_BYTES = 1 << 20"), encoding="utf-8"
    )
    with serve() as index:
        world = make_compiling(
            folder,
            index,
            folder / "code",
            tree=TREE,
            components=("_C",),
            behind=tools.sites[0],
        )
        change = world.upstream.patch({"csrc/two.cpp": BETTER}, Components="_C")
        world.add_patch("arch.patch", change)
        world.add_overlay("vllm/note.py", NOTE)
        yield world


@pytest.fixture
def cutlass(shared: World) -> Repository:
    """The inner source's repository, pinned by a tag, and nothing built yet."""
    for path in (shared.out, shared.cache / "native", shared.root.parent / "sources"):
        shutil.rmtree(path, ignore_errors=True)
    repository = new_repository(shared.root.parent / "sources" / "cutlass", headers(7))
    repository.git("tag", VERSION)
    bases = shared.root / "bases.toml"
    text = bases.read_text(encoding="utf-8").partition("inner.cutlass")[0]
    pin = f'inner.cutlass = {{ repository = "{repository.root}", pin = "{VERSION}" }}\n'
    bases.write_text(text + pin, encoding="utf-8")
    return repository


def headers(value: int | str) -> dict[str, bytes]:
    """The inner source; `value` is what its extension gives, or no C++ at all."""
    main = f"#define CUTLASS {value}\n" if isinstance(value, int) else value
    return {
        **cutlass_files(VERSION.removeprefix("v")),
        "include/cutlass/cutlass.h": main.encode(),
    }


def write_headers(folder: Path, value: int | str) -> Path:
    for name, content in headers(value).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def build(world: World, *args: str, port: int) -> Done:
    return world.build("--native", "all", "--json", *args, env={"STANDIN_PORT": str(port)})


def good(world: World, *args: str, port: int) -> dict[str, Any]:
    done = build(world, *args, port=port)
    assert done.status == 0, done.err
    return done.document


def test_a_wheel_is_upstreams_build_of_the_patched_tree(
    shared: World, cutlass: Repository, port: int, tmp_path: Path
) -> None:
    document = good(shared, port=port)

    with zipfile.ZipFile(shared.wheel()) as wheel:
        wheel.extractall(tmp_path)
    library = ctypes.CDLL(str(tmp_path / "vllm" / "_C.abi3.so"))
    library.arch.restype = ctypes.c_char_p
    assert (library.inner(), library.arch()) == (7, b"patched 12.0,12.1")
    assert (tmp_path / "vllm" / "note.py").read_bytes() == NOTE
    assert f"'{small.VERSION}+sm12x.4'" in (tmp_path / "vllm" / "_version.py").read_text()
    (info,) = tmp_path.glob("vllm-*.dist-info")
    compiled = json.loads((info / "sm12x" / "record.json").read_text())["compiled"]
    (source,) = compiled["inner"]
    assert compiled["components"] == "all"
    assert (source["name"], source["pinned"]) == ("cutlass", True)
    assert source["tree"] == cutlass.text("rev-parse", f"{VERSION}^{{tree}}")
    assert [(c["name"], c["action"]) for c in document["components"]] == [("_C", "rebuild")]
    assert document["not_in_this_wheel"] == []


def test_the_same_inputs_give_the_same_wheel_and_compile_nothing(
    shared: World, cutlass: Repository, port: int
) -> None:
    good(shared, port=port)
    first = shared.wheel().read_bytes()
    objects = {p: p.stat().st_mtime_ns for p in (shared.cache / "native").rglob("*.o")}
    assert objects
    shutil.rmtree(shared.out)

    good(shared, port=port)

    assert shared.wheel().read_bytes() == first
    assert {p: p.stat().st_mtime_ns for p in (shared.cache / "native").rglob("*.o")} == objects


def test_a_source_nobody_has_stops_it_before_anything_is_compiled(
    shared: World, cutlass: Repository, port: int
) -> None:
    cutlass.root.rename(cutlass.root.with_name("elsewhere"))
    shutil.rmtree(shared.cache / "inner", ignore_errors=True)
    shutil.rmtree(shared.cache / "store.git", ignore_errors=True)

    done = build(shared, port=port)

    assert done.status == 3
    assert "cutlass" in done.err
    assert "--sources" in done.next
    assert list((shared.cache / "native").rglob("*.o")) == []
    assert list(shared.out.glob("*")) == []


def test_a_folder_named_by_hand_is_taken_and_noted(
    shared: World, cutlass: Repository, port: int, tmp_path: Path
) -> None:
    folder = write_headers(tmp_path / "mine", 8)

    good(shared, "--sources", f"cutlass={folder}", port=port)

    with zipfile.ZipFile(shared.wheel()) as wheel:
        library = ctypes.CDLL(wheel.extract("vllm/_C.abi3.so", tmp_path))
        (name,) = [n for n in wheel.namelist() if n.endswith("/sm12x/record.json")]
        (source,) = json.loads(wheel.read(name))["compiled"]["inner"]
    assert library.inner() == 8
    assert source["pinned"] is False


def test_what_does_not_compile_ends_with_5_and_no_wheel(
    shared: World, cutlass: Repository, port: int, tmp_path: Path
) -> None:
    folder = write_headers(tmp_path / "broken", "#error broken\n")

    done = build(shared, "--sources", f"cutlass={folder}", port=port)

    assert done.status == 5
    assert "setup.py" in done.err
    assert list(shared.out.glob("*.whl")) == []


def test_what_cannot_be_loaded_ends_with_6_and_no_wheel(
    shared: World, cutlass: Repository, port: int, tmp_path: Path
) -> None:
    gone = '#define CUTLASS found_nowhere()\nextern "C" int found_nowhere();\n'
    folder = write_headers(tmp_path / "unlinked", gone)

    done = build(shared, "--sources", f"cutlass={folder}", port=port)

    assert done.status == 6
    assert "_C.abi3.so needs symbols that nothing has: found_nowhere" in done.err
    assert done.next
    assert list(shared.out.glob("*.whl")) == []
