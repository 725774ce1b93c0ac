# SPDX-License-Identifier: Apache-2.0
"""Which compiler a compile gets, and what of the caller's environment it doesn't get."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe.compile.configure import Place, Shorten, clear_of_others, variables
from recipe.compile.toolchain import host_compiler
from recipe.compile.toolchain.environment import NativeEnv
from recipe.compile.toolchain.toolkit import Toolkit
from recipe.ground import run
from recipe.ground.errors import MachineError, UsageError
from tests.recipe import small
from tests.recipe.compiling import SOURCES, TREE, make_compiling
from tests.recipe.server import serve
from tests.recipe.world import World

WANTS = b'if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS "99")\nendif()\n'
COMPILER = """\
#!/bin/sh
echo "$@" >>{folder}/calls
case $1 in
  --version) echo '{name} (ours) 99.0.0' ;;
  -dumpfullversion) echo 99.0.0 ;;
  *) exec {real} "$@" ;;
esac
"""
HOSTILE = {
    "CFLAGS": "-DHOSTILE",
    "CXXFLAGS": "-DHOSTILE",
    "NVCC_CCBIN": "/hostile",
    "CUDAHOSTCXX": "/hostile",
    "NVCC_APPEND_FLAGS": "--hostile",
    "LIBRARY_PATH": "/hostile",
    "C_INCLUDE_PATH": "/hostile",
    "CMAKE_PREFIX_PATH": "/hostile",
    "VLLM_FLASH_ATTN_SRC_DIR": "/hostile",
    "DEEPGEMM_PYTHON_INTERPRETERS": "/hostile",
}


def newer(folder: Path, name: str = "g++-99") -> Path:
    """A compiler that says it is newer than this machine's, and writes down its calls."""
    folder.mkdir(exist_ok=True)
    real = shutil.which("g++")
    path = folder / name
    path.write_text(COMPILER.format(folder=folder, name=name, real=real), encoding="utf-8")
    path.chmod(0o755)
    return path


def env_with(folder: Path, **told: str) -> NativeEnv:
    (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True, exist_ok=True)
    (folder / "pyvenv.cfg").write_text("home = /opt/python/bin\n", encoding="utf-8")
    return NativeEnv(
        folder=folder,
        shelf=folder,
        python="3.11",
        torch="2.11.0",
        toolkit=Toolkit(root=folder / "toolkit", version="13.0.88", why=""),
        compiler=f"compilers {sorted(told.values())}",
        told=told,
    )


def place_in(folder: Path, **inner: str) -> Place:
    return Place(tree=folder / "source", build=folder / "build", inner=inner)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


def test_what_the_caller_has_set_does_not_reach_a_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/kept")  # the compiler itself may need it
    place = place_in(tmp_path, QUTLASS_SRC_DIR="/ours")
    told = run.changed(variables(env_with(tmp_path), place, "12.0"))
    assert not HOSTILE.keys() & told.keys()
    assert (told["QUTLASS_SRC_DIR"], told["LD_LIBRARY_PATH"]) == ("/ours", "/kept")


def test_the_named_compiler_is_the_one_of_cmake_and_of_nvcc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = newer(tmp_path / "bin")
    monkeypatch.setenv("CXX", f"ccache {path}")
    monkeypatch.setenv("CC", str(newer(tmp_path / "bin", "gcc-99")))
    told = host_compiler.told()
    assert (told["CXX"], told["CUDAHOSTCXX"]) == (str(path), str(path))
    assert Path(told["CC"]).name == "gcc-99"
    assert host_compiler.identity() == "g++-99 (ours) 99.0.0; gcc-99 (ours) 99.0.0"
    given = variables(env_with(tmp_path, **told), place_in(tmp_path), "12.0")
    assert {name: given[name] for name in told} == told
    host_compiler.check_gcc(WANTS.decode(), "v9.1.0")


def test_without_a_name_the_machines_own_is_found_by_itself() -> None:
    assert host_compiler.told() == {}
    assert host_compiler.chosen() == shutil.which("c++")
    with pytest.raises(MachineError, match="wants 99 or newer") as stopped:
        host_compiler.check_gcc(WANTS.decode(), "v9.1.0")
    assert "CXX=g++-99" in stopped.value.next


def test_nvcc_is_given_the_compiler_that_cmake_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nvcc looks for g++ and CMake for c++; on some machines that is clang."""
    ours = newer(tmp_path / "bin", "c++")
    monkeypatch.setenv("PATH", f"{ours.parent}:/usr/bin:/bin")
    assert host_compiler.told() == {"CUDAHOSTCXX": str(ours)}


@pytest.mark.parametrize(
    ("value", "error"),
    [("g++ -m32", UsageError), ("ccache g++ -g", UsageError), ("/no", MachineError)],
)
def test_a_compiler_that_cannot_be_recorded_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str, error: type[Exception]
) -> None:
    monkeypatch.setenv("CXX", value)
    with pytest.raises(error, match=r"CXX|/no"):
        host_compiler.told()


def test_a_named_compilers_place_is_in_no_key(tmp_path: Path) -> None:
    env = env_with(tmp_path, CXX="/opt/gcc/bin/g++-99")
    shorten = Shorten({}, place_in(tmp_path), env)
    assert shorten("/opt/gcc/bin/g++-99 -c x.cpp") == "g++-99 -c x.cpp"


def test_the_objects_of_another_compiler_are_not_taken_up(tmp_path: Path) -> None:
    build = tmp_path / "build"
    clear_of_others(env_with(tmp_path), build)
    (build / "one.o").touch()
    clear_of_others(env_with(tmp_path), build)
    assert (build / "one.o").exists()
    clear_of_others(env_with(tmp_path, CXX="/usr/bin/g++-99"), build)
    assert not (build / "one.o").exists()


@pytest.fixture(scope="module")
def demanding(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[World]:
    """A world whose release wants a compiler that this machine hasn't got by itself."""
    with serve() as index:
        tree = {**TREE, "CMakeLists.txt": SOURCES["CMakeLists.txt"] + WANTS}
        world = make_compiling(tmp_path_factory.mktemp("demanding"), index, code, tree=tree)
        better = {"csrc/_c/one.cpp": b'extern "C" int answer() { return 42; }\n'}
        world.add_patch("answer.patch", world.upstream.patch(better, Components="_C"))
        yield world


def compiled(world: World, **env: str) -> dict[str, Any]:
    done = world.build("--native", "auto", "--json", env=env)
    assert done.status == 0, done.err
    return dict(done.document["native"])


def test_a_release_that_wants_a_newer_compiler_gets_the_named_one(
    demanding: World, tmp_path: Path
) -> None:
    done = demanding.build("--native", "auto", "--json")
    assert done.status == 8
    assert f"{small.TAG} wants 99 or newer" in done.err

    folder = tmp_path / "searched"
    folder.mkdir()
    (folder / "cstdlib").write_text("#error the caller's header\n", encoding="utf-8")
    path = newer(tmp_path / "bin")
    native = compiled(demanding, CXX=str(path), CPATH=str(folder), CXXFLAGS="--no-such-flag")

    assert native["compiler"] == "g++-99 (ours) 99.0.0"
    assert "csrc/_c/one.cpp" in (tmp_path / "bin" / "calls").read_text(encoding="utf-8")
    # Another one in the same work folder: nothing that the first has compiled is used.
    other = newer(tmp_path / "other", "g++-98")
    assert compiled(demanding, CXX=str(other))["compiler"] == "g++-98 (ours) 99.0.0"
    assert "csrc/_c/one.cpp" in (tmp_path / "other" / "calls").read_text(encoding="utf-8")
