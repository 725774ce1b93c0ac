# SPDX-License-Identifier: Apache-2.0
"""``--native all`` on a small package that is built as vLLM is, with the real build tools."""

from __future__ import annotations

import ctypes
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipe.compile import whole
from recipe.compile.configure import Place
from recipe.compile.native import whole as native_whole
from recipe.compile.toolchain import sccache
from recipe.compile.toolchain.compiler_cache import CompilerCache
from recipe.compile.toolchain.environment import NativeEnv
from recipe.ground.errors import AuditError, CompileError, MachineError, SourceError
from recipe.ground.project import Project
from tests.integration.standin import write_inner, write_tree
from tests.recipe import small
from tests.recipe.fatbins import shared_object, unit

ROOT = Path(__file__).resolve().parents[2]
VERSION = "9.1.0+sm12x.1"

Build = Callable[..., whole.Whole]


@pytest.fixture
def order(tmp_path: Path) -> whole.Order:
    return whole.Order(
        place=Place(
            tree=write_tree(tmp_path / "tree"),
            build=tmp_path / "build",
            inner={"VLLM_CUTLASS_SRC_DIR": str(write_inner(tmp_path / "cutlass"))},
        ),
        arch_list="12.0;12.1",
        version=VERSION,
        commit="0123abcde",
    )


@pytest.fixture
def build(tools: NativeEnv, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setenv("STANDIN_PORT", str(port))
    monkeypatch.setattr(whole, "ROOM_BYTES", 1 << 20)

    def run(order: whole.Order, cache: CompilerCache | None = None) -> whole.Whole:
        return whole.build_whole(
            tools, order, asked_jobs=2, cache=cache, peaks=tmp_path / "peaks", offline=True
        )

    return run


def seen(wheel: Path) -> dict[str, Any]:
    """What the package's setup.py noted of its surroundings."""
    with zipfile.ZipFile(wheel) as archive:
        return dict(json.loads(archive.read("vllm/seen.json")))


def test_a_wheel_of_our_version_comes_out_of_named_sources(
    build: Build, order: whole.Order, tmp_path: Path
) -> None:
    made = build(order)

    assert made.wheel.name.startswith(f"vllm-{VERSION}-cp38-abi3-linux_")
    with zipfile.ZipFile(made.wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
        version = archive.read("vllm/_version.py").decode()
        dates = {info.date_time[0] for info in archive.infolist()}
    assert f"__version__ = version = '{VERSION}'" in version
    assert "commit_id = 'g0123abcde'" in version
    assert dates == {1980}
    extension = ctypes.CDLL(str(tmp_path / "unpacked" / "vllm" / "_C.abi3.so"))
    extension.arch.restype = ctypes.c_char_p
    assert extension.inner() == 7
    assert extension.arch() == b"12.0,12.1"


def test_what_each_extension_is_compiled_for_can_be_asked_afterwards(
    build: Build, order: whole.Order
) -> None:
    build(order)
    assert {n: len(b.steps) for n, b in native_whole.compiled_for(order.work).items()} == {"_C": 2}


def test_a_build_of_everything_has_no_network(build: Build, order: whole.Order) -> None:
    made = build(order)

    told = seen(made.wheel)
    assert told["reached"] == (made.network != "a network namespace of its own")
    assert "-DFETCHCONTENT_FULLY_DISCONNECTED=ON" in told["CMAKE_ARGS"].split()


def test_what_the_caller_set_does_not_bring_binaries_in(
    build: Build, order: whole.Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_USE_PRECOMPILED", "1")
    monkeypatch.setenv("VLLM_USE_PRECOMPILED_RUST", "1")
    monkeypatch.setenv("VLLM_PRECOMPILED_WHEEL_LOCATION", "https://wheels.example/x.whl")
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")

    told = seen(build(order).wheel)

    assert told["VLLM_USE_PRECOMPILED"] == told["VLLM_USE_PRECOMPILED_RUST"] == "0"
    assert told["VLLM_PRECOMPILED_WHEEL_LOCATION"] == ""
    assert told["VLLM_TARGET_DEVICE"] == "cuda"
    assert told["TORCH_CUDA_ARCH_LIST"] == "12.0;12.1"
    assert told["MAX_JOBS"] == "2"


def test_a_second_tree_is_served_by_the_cache_though_it_has_no_network(
    build: Build, order: whole.Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SCCACHE_")]:
        monkeypatch.delenv(name)
    project = Project(root=ROOT, cache=tmp_path / "cache")
    place = replace(order.place, tree=write_tree(tmp_path / "other" / "tree"), build=tmp_path / "o")
    other = replace(order, place=place)

    made = []
    for one in (order, other):
        with sccache.compiler_cache("sccache", project, tmp_path, offline=False) as cache:
            made.append(build(one, cache))

    cold, warm = (one.hits for one in made)
    assert cold is not None and warm is not None
    assert (cold.hits, cold.misses) == (0, 2)
    assert warm.hits >= 1  # the other source's tree is not below its working directory
    assert seen(made[1].wheel)["reached"] is (made[1].network != whole.alone()[1])


def test_no_launcher_is_taken_from_the_path_when_no_cache_is_asked_for(
    build: Build, order: whole.Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "bin" / "ccache"
    trap.parent.mkdir()
    trap.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    trap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{trap.parent}{os.pathsep}{os.environ['PATH']}")

    assert build(order).hits is None


@pytest.mark.parametrize("lost", ["not named", "empty", "not there"])
def test_an_inner_source_that_is_missing_is_named_before_anything_is_compiled(
    build: Build, order: whole.Order, tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / "nothing"
    if lost == "empty":
        folder.mkdir()
    inner = {} if lost == "not named" else {"VLLM_CUTLASS_SRC_DIR": str(folder)}

    with pytest.raises(SourceError) as error:
        build(replace(order, place=replace(order.place, inner=inner)))

    assert error.value.exit_code == 3
    assert "VLLM_CUTLASS_SRC_DIR" in str(error.value)
    assert "ONEDNN" not in str(error.value)
    assert not order.work.exists()


def test_a_source_may_be_named_by_an_entry_of_cmake_instead(
    build: Build, order: whole.Order, tmp_path: Path
) -> None:
    entry = {"FETCHCONTENT_SOURCE_DIR_VLLM-CUTLASS": order.place.inner["VLLM_CUTLASS_SRC_DIR"]}
    place = replace(order.place, inner={}, defines=entry)

    whole.check_inner(replace(order, place=place))

    (tmp_path / "cutlass").rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="VLLM-CUTLASS="):
        whole.check_inner(replace(order, place=place))


def test_a_source_that_does_not_compile_stops_it_and_the_next_run_goes_on(
    build: Build, order: whole.Order
) -> None:
    broken = order.tree / "csrc" / "two.cpp"
    good = broken.read_text(encoding="utf-8")
    broken.write_text("#error not yet\n", encoding="utf-8")
    with pytest.raises(CompileError) as error:
        build(order)
    assert error.value.exit_code == 5
    assert "the next run goes on from there" in str(error.value)
    first = next(order.work.rglob("one.cpp.o")).stat().st_mtime_ns
    broken.write_text(good, encoding="utf-8")

    build(order)

    assert next(order.work.rglob("one.cpp.o")).stat().st_mtime_ns == first


def test_a_setup_that_takes_another_version_is_refused(build: Build, order: whole.Order) -> None:
    path = order.tree / "setup.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("version=version,", 'version="1.0",'), encoding="utf-8")

    with pytest.raises(CompileError, match="there is vllm-1"):
        build(order)


def test_a_folder_with_a_blank_is_refused(build: Build, order: whole.Order, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="blank") as error:
        build(replace(order, place=replace(order.place, build=tmp_path / "my work")))

    assert error.value.exit_code == 8


def test_a_disk_without_room_is_said_before_the_compile(
    build: Build, order: whole.Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "ROOM_BYTES", 1 << 60)

    with pytest.raises(MachineError, match="no room"):
        build(order)


def commands(*archs: str) -> str:
    """What CMake notes of one source that nvcc compiles."""
    codes = " ".join(f"-gencode arch=compute_{one},code=sm_{one}" for one in archs)
    entry = {
        "file": "/tree/csrc/x.cu",
        "output": "CMakeFiles/_C.dir/csrc/x.cu.o",
        "command": f"nvcc {codes} -c /tree/csrc/x.cu",
    }
    return json.dumps([entry])


@pytest.mark.parametrize("found", ["120f", "80", ""])
def test_an_extension_without_the_code_that_was_asked_of_nvcc_is_refused(
    tools: NativeEnv, tmp_path: Path, found: str
) -> None:
    folder = tmp_path / "build" / "temp.linux-x86_64-cpython-311"
    folder.mkdir(parents=True)
    (folder / "compile_commands.json").write_text(commands("80", "120f"), encoding="utf-8")
    units = [unit(tmp_path / "gpu", (found,))] if found else []
    wheel = tmp_path / "x.whl"
    cargos = {"vllm/_rust_tool_parser.abi3.so": small.shared_object()}
    wheel.write_bytes(small.make_wheel(cargos, binary=shared_object(*units)))
    project = Project(root=ROOT, cache=tmp_path / "cache")

    def check(asked: str) -> None:
        builds = native_whole.compiled_for(tmp_path / "build")
        native_whole.check_wheel(project, tools, (asked,), wheel, builds)

    check("9.0")  # of which nvcc was told nothing
    if found == "120f":
        check("12.1")
    else:
        with pytest.raises(AuditError, match=r"vllm/_C\.abi3\.so .* for 12\.1\n") as error:
            check("12.1")
        assert error.value.next
    assert list((project.cache / "tmp").iterdir()) == []


def test_a_setup_that_leaves_no_list_of_compiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="left no list"):
        native_whole.compiled_for(tmp_path)
