# SPDX-License-Identifier: Apache-2.0
"""Components that are compiled: which, from what, and what of it comes into the wheel."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from recipe.compile.ninja import failed
from recipe.compile.toolchain.jobs import killed_for_memory
from recipe.ground.run import FULL_DISK_BYTES
from tests.recipe.compiling import add_torch, fake_toolkit, make_compiling
from tests.recipe.processes import MARK, marked, wait_for
from tests.recipe.server import serve
from tests.recipe.world import Done, World

PATCH = "answer.patch"
BETTER = b'#include "shared.h"\nextern "C" int answer() { return 42; }\n'


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[World]:
    """One world for the module, with its build environment made."""
    with serve() as index:
        world = make_compiling(tmp_path_factory.mktemp("compiling"), index, code)
        change = world.upstream.patch({"csrc/_c/one.cpp": BETTER}, Components="_C")
        world.add_patch(PATCH, change)
        yield world


@pytest.fixture
def compiling(shared: World) -> Iterator[World]:
    """The world with its one patch and nothing compiled yet."""
    shutil.rmtree(shared.out, ignore_errors=True)
    shutil.rmtree(shared.cache / "native", ignore_errors=True)
    series, patch = shared.root / "series.txt", shared.root / "patches" / "vllm" / PATCH
    before = series.read_bytes(), patch.read_bytes()
    yield shared
    series.write_bytes(before[0])
    patch.write_bytes(before[1])


def build(world: World, *args: str, native: str = "auto") -> Done:
    return world.build("--native", native, "--json", *args)


def good(world: World, *args: str, native: str = "auto") -> dict[str, Any]:
    done = build(world, *args, native=native)
    assert done.status == 0, done.err
    return done.document


def actions(document: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["action"] for one in document["components"]}


def extracted(world: World, name: str, folder: Path) -> Path:
    with zipfile.ZipFile(world.wheel()) as archive:
        return Path(archive.extract(name, folder))


def replace_patch(world: World, files: dict[str, bytes | None], components: str) -> None:
    """Another patch in the place of the one that changes the answer."""
    world.upstream.git("checkout", "--quiet", "--detach", "HEAD~1")
    content = world.upstream.patch(files, Components=components)
    world.upstream.git("checkout", "--quiet", "main")
    (world.root / "patches" / "vllm" / PATCH).write_bytes(content)


def test_what_the_series_makes_stale_is_compiled_and_the_rest_is_upstreams(
    compiling: World, tmp_path: Path
) -> None:
    document = good(compiling)

    assert actions(document) == {"_C": "rebuild", "_moe_C": "reuse"}
    (why,) = [c["why"] for c in document["components"] if c["name"] == "_C"]
    assert why == "the series changes 1 file (one.cpp)"
    assert document["not_in_this_wheel"] == []
    library = ctypes.CDLL(str(extracted(compiling, "vllm/_C.abi3.so", tmp_path)))
    assert (library.answer(), library.other()) == (42, 2)
    with zipfile.ZipFile(compiling.wheel()) as archive:
        (published,) = [n for n in archive.namelist() if n == "vllm/_moe_C.abi3.so"]
        (name,) = [n for n in archive.namelist() if n.endswith("/sm12x/record.json")]
        compiled = json.loads(archive.read(name))["compiled"]
        assert "experts" not in str(archive.read(published))
    assert compiled["cuda"] == "13.0.88"
    assert compiled["torch"] == "2.11.0"
    assert list(compiled["components"]) == ["_C"]
    assert document["native"]["took"]["jobs"]


def test_the_same_inputs_compile_nothing_a_second_time(compiling: World) -> None:
    first = good(compiling)
    content = compiling.wheel().read_bytes()
    shutil.rmtree(compiling.out)

    again = good(compiling)

    assert again["native"]["took"] == {}
    assert again["native"]["components"] == first["native"]["components"]
    assert compiling.wheel().read_bytes() == content


def test_another_tree_of_the_same_sources_comes_from_the_compilers_cache(compiling: World) -> None:
    shutil.rmtree(compiling.cache / "ccache", ignore_errors=True)
    first = good(compiling)["native"]["took"]
    assert (first["cache_hits"], first["cache_misses"]) == (0, 2)
    moved = compiling.cache / "native"
    shutil.rmtree(moved)

    # The architecture is in the name of the work folder, and in no command of these sources.
    again = good(compiling, "--arch", "12.0")["native"]["took"]

    assert (again["cache_hits"], again["cache_misses"]) == (2, 0)


def test_without_a_compiler_cache_there_is_no_hit_rate(compiling: World) -> None:
    took = good(compiling, "--compiler-cache", "none", "--jobs", "1")["native"]["took"]
    assert took["cache_hits"] is None
    assert took["jobs"] == "1, as asked"


def test_a_damaged_component_in_the_cache_is_compiled_anew(compiling: World) -> None:
    good(compiling)
    (kept,) = compiling.cache.glob("native/components/_C-*/files/vllm/_C.abi3.so")
    content = kept.read_bytes()
    kept.write_bytes(content[:-1] + b"x")

    done = build(compiling)

    assert done.status == 0, done.err
    assert "_C in the cache is damaged; it is compiled anew" in done.err
    assert kept.read_bytes() == content


def test_a_source_that_does_not_compile_ends_with_5_and_leaves_no_wheel(compiling: World) -> None:
    replace_patch(compiling, {"csrc/_c/one.cpp": b"this is no C++\n"}, "_C")

    done = build(compiling)

    assert done.status == 5
    assert "_C doesn't compile" in done.err
    assert "one.cpp" in done.err
    assert "--native none" in done.next
    assert list(compiling.out.glob("*.whl")) == []


def test_a_cmake_that_stops_ends_with_5(compiling: World) -> None:
    world = compiling
    text = (world.upstream.root / "CMakeLists.txt").read_bytes()
    replace_patch(world, {"CMakeLists.txt": text + b'message(FATAL_ERROR "no such thing")\n'}, "_C")

    done = build(world)

    assert done.status == 5
    assert "CMake stops" in done.err
    assert "no such thing" in done.err


def test_a_symbol_that_nothing_has_ends_with_6(compiling: World) -> None:
    lost = b'int lost();\nextern "C" int answer() { return lost(); }\n'
    replace_patch(compiling, {"csrc/_c/one.cpp": lost}, "_C")

    done = build(compiling)

    assert done.status == 6
    assert "_C.abi3.so needs symbols that nothing has: _Z4lostv" in done.err
    assert list(compiling.cache.glob("native/components/_C-*")) == []


def test_a_header_change_makes_every_component_that_takes_it_in_stale(compiling: World) -> None:
    header = b"#pragma once\nint shared();\nint more();\n"
    replace_patch(compiling, {"csrc/shared.h": header}, "_C")
    assert actions(good(compiling)) == {"_C": "rebuild", "_moe_C": "reuse"}


def test_a_header_that_stands_before_another_makes_its_component_stale(
    compiling: World,
) -> None:
    nearer = b"#pragma once\nint shared();\nint nearer();\n"
    replace_patch(compiling, {"csrc/_c/shared.h": nearer}, "_C")
    document = good(compiling)
    assert actions(document) == {"_C": "rebuild", "_moe_C": "reuse"}
    (why,) = [c["why"] for c in document["components"] if c["name"] == "_C"]
    assert (
        why == "the series takes in 1 other file (shared.h), no longer takes in 1 file (shared.h)"
    )


def test_what_a_patch_claims_and_cmake_does_not_see_is_reused(compiling: World) -> None:
    replace_patch(compiling, {"csrc/notes.txt": b"nothing\n"}, "_C")

    document = good(compiling)

    assert actions(document) == {"_C": "reuse", "_moe_C": "reuse"}
    assert document["native"] is None


def test_a_component_can_be_named(compiling: World, tmp_path: Path) -> None:
    document = good(compiling, native="_moe_C")

    assert actions(document) == {"_C": "stale", "_moe_C": "rebuild"}
    library = ctypes.CDLL(str(extracted(compiling, "vllm/_moe_C.abi3.so", tmp_path)))
    assert library.experts() == 8
    assert len(document["not_in_this_wheel"]) == 1


def test_an_unknown_component_is_refused_before_anything_is_fetched(compiling: World) -> None:
    asked = len(compiling.index.asked)
    done = build(compiling, native="_moe")
    assert done.status == 2
    assert "no such component: _moe" in done.err
    assert "There are _C, _moe_C." in done.err
    assert len(compiling.index.asked) == asked


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_compile_leaves_no_compiler_and_is_taken_up_where_it_was(
    compiling: World, tmp_path: Path, number: signal.Signals
) -> None:
    # The assembler waits for somebody to write into a pipe.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = BETTER + f'asm(".pushsection .rodata\\n.incbin \\"{pipe}\\"\\n.popsection");\n'.encode()
    replace_patch(compiling, {"csrc/_c/one.cpp": text}, "_C")
    args = ("--native", "auto", "--no-test", "--compiler-cache", "none", "--jobs", "2")
    out = ("--out", str(compiling.out))
    objects = "native/work/*/build/CMakeFiles/_C.dir/csrc/_c/two.cpp.o"

    process = compiling.start("build", *args, *out, env={MARK: str(tmp_path)})
    assert wait_for(
        lambda: list(compiling.cache.glob(objects)) and "one.cpp" in str(marked(str(tmp_path)))
    )
    (finished,) = compiling.cache.glob(objects)
    time.sleep(0.3)  # ninja writes down that it is finished
    process.send_signal(number)
    _, err = process.communicate(timeout=30)

    assert process.returncode == (130 if number == signal.SIGTERM else -9), err
    assert wait_for(lambda: marked(str(tmp_path)) == [], 5), marked(str(tmp_path))
    before = finished.stat().st_mtime_ns
    assert list(compiling.out.glob("*.whl")) == []
    pipe.unlink()
    pipe.write_bytes(b"what it waited for")
    done = compiling.good("build", *args, *out, "--json")
    assert actions(done.document) == {"_C": "rebuild", "_moe_C": "reuse"}
    assert finished.stat().st_mtime_ns == before


def test_a_disk_that_fills_during_a_compile_ends_with_8(compiling: World) -> None:
    large = b"char large[12 << 20] = {1};\n" + BETTER
    replace_patch(compiling, {"csrc/_c/one.cpp": large}, "_C")
    disk = compiling.cache / "native"
    disk.mkdir(parents=True)
    with small_disk(disk, mib=24):
        (disk / "filler").write_bytes(b"\0" * (16 << 20))
        done = build(compiling, "--compiler-cache", "none")
        assert done.status == 8, done.err
        assert f"no room on the disk of {disk}" in done.err
        assert list(compiling.out.glob("*.whl")) == []
        (disk / "filler").unlink()
    assert actions(good(compiling)) == {"_C": "rebuild", "_moe_C": "reuse"}


def test_a_disk_that_has_room_again_when_the_compiler_has_ended_was_full(
    compiling: World,
) -> None:
    """The assembler removes the object that it couldn't write."""
    larger = b"char large[96 << 20] = {1};\n" + BETTER
    replace_patch(compiling, {"csrc/_c/one.cpp": larger}, "_C")
    disk = compiling.cache / "native"
    disk.mkdir(parents=True)
    with small_disk(disk, mib=64):
        done = build(compiling, "--compiler-cache", "none")
        assert shutil.disk_usage(disk).free > FULL_DISK_BYTES
    assert done.status == 8, done.err
    assert f"no room on the disk of {disk}" in done.err


def test_what_compilers_write_besides_objects_lies_in_the_work_folder(
    compiling: World, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    compiler = tmp_path / "g++-ours"
    compiler.write_text(f'#!/bin/sh\necho "$TMPDIR" >>{seen}\nexec g++ "$@"\n', encoding="utf-8")
    compiler.chmod(0o755)
    env = {"CXX": str(compiler), "TMPDIR": "/no/such/folder"}
    done = compiling.build("--native", "auto", "--compiler-cache", "none", env=env)
    assert done.status == 0, done.err
    (work,) = compiling.cache.glob("native/work/*")
    assert f"{work}/build/tmp" in seen.read_text(encoding="utf-8").splitlines()


@contextmanager
def small_disk(folder: Path, *, mib: int) -> Iterator[None]:
    options = ["-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_compiler_that_the_kernel_killed_is_told_from_bad_sources(tmp_path: Path) -> None:
    before = killed_for_memory()
    short = failed(tmp_path, "_C doesn't compile", 4, before - 1, no_room=False)
    assert (short.exit_code, short.next) == (8, "the same command with --jobs 2")
    assert failed(tmp_path, "_C doesn't compile", 4, before, no_room=False).exit_code == 5


def test_a_plan_measures_once_the_build_environment_is_there(compiling: World) -> None:
    good(compiling)
    document = compiling.good("plan", "--json").document
    assert document["components_measured"]
    assert actions(document) == {"_C": "rebuild", "_moe_C": "reuse"}
    assert "changes 1 file (one.cpp)" in compiling.good("plan").out


def test_a_toolkit_that_is_named_must_be_torchs(compiling: World, tmp_path: Path) -> None:
    old = fake_toolkit(tmp_path / "cuda", "12.8.93")
    args = ("build", "--native", "auto", "--no-test", "--out", str(compiling.out))
    done = compiling.run(*args, env={"CUDA_HOME": str(old)})
    assert done.status == 8
    assert f"CUDA_HOME={old} is CUDA 12.8.93, torch was built with 13.0" in done.err
    assert done.next.startswith("unset CUDA_HOME")


def test_a_torch_without_cuda_compiles_nothing(tmp_path: Path, code: Path) -> None:
    with serve() as index:
        world = make_compiling(tmp_path, index, code)
        add_torch(index, cuda="None")
        world.add_patch(PATCH, world.upstream.patch({"csrc/_c/one.cpp": BETTER}, Components="_C"))
        done = build(world)
    assert done.status == 8
    assert "v9.1.0 is built with CUDA 13.0" in done.err
    assert "--native none" in done.next


def test_a_machine_without_readelf_compiles_nothing(compiling: World, tmp_path: Path) -> None:
    good(compiling, "--arch", "12.0")  # the build environment is there
    shutil.rmtree(compiling.cache / "native")
    shutil.rmtree(compiling.out)
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for program in Path(folder).iterdir():
            if not program.name.endswith("readelf") and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    done = compiling.build("--native", "auto", "--json", env={"PATH": str(programs)})
    assert done.status == 8
    assert "readelf is not on the PATH" in done.err
    assert not list(compiling.cache.glob("native/work/*/build/CMakeFiles/*/csrc/*/*.o"))
