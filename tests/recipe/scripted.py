# SPDX-License-Identifier: Apache-2.0
"""A compiling release with two inner sources: a kernel library, which CMake compiles, and DeepGEMM,
which a script of the tree compiles for one Python, as upstream's does from v0.21 on."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recipe import compiling, small
from tests.recipe.repo import Repository, new_repository
from tests.recipe.server import Index, serve
from tests.recipe.world import World

HERE = f"{sys.version_info.major}{sys.version_info.minor}"
DEEPGEMM = "_deep_gemm_C"
COMPONENTS = ("_C", "_moe_C", "_kernels_C", DEEPGEMM)
INCLUDES = b"""\
include(FetchContent)
include(cmake/external_projects/kernels.cmake)
include(cmake/external_projects/deepgemm.cmake)
"""
KERNELS_CMAKE = b"""\
if(DEFINED ENV{KERNELS_SRC_DIR})
  set(kernels_SOURCE_DIR $ENV{KERNELS_SRC_DIR})
endif()
FetchContent_Declare(kernels GIT_REPOSITORY https://kernels.example/k.git GIT_TAG v1)
set(KERNELS_SOURCES ${kernels_SOURCE_DIR}/csrc/api.cpp)
add_library(_kernels_C MODULE)
target_sources(_kernels_C PRIVATE ${KERNELS_SOURCES})
set_target_properties(_kernels_C PROPERTIES PREFIX "" SUFFIX ".abi3.so")
install(TARGETS _kernels_C LIBRARY DESTINATION vllm COMPONENT _kernels_C)
"""
DEEPGEMM_CMAKE = b"""\
if(DEFINED ENV{DEEPGEMM_SRC_DIR})
  set(deepgemm_SOURCE_DIR $ENV{DEEPGEMM_SRC_DIR})
endif()
FetchContent_Declare(deepgemm GIT_REPOSITORY https://deepgemm.example/x.git GIT_TAG v1)
set(dg_built "${CMAKE_CURRENT_BINARY_DIR}/deepgemm_C")
add_custom_command(OUTPUT "${dg_built}/.built"
  COMMAND "${VLLM_PYTHON_EXECUTABLE}" "${CMAKE_SOURCE_DIR}/tools/build_deepgemm_C.py"
          "${deepgemm_SOURCE_DIR}" "${dg_built}"
  COMMAND "${CMAKE_COMMAND}" -E touch "${dg_built}/.built")
add_custom_target(_deep_gemm_C DEPENDS "${dg_built}/.built")
install(DIRECTORY "${dg_built}/" DESTINATION vllm/third_party/deep_gemm COMPONENT _deep_gemm_C
  FILES_MATCHING PATTERN "_C.cpython-*.so")
install(FILES "${deepgemm_SOURCE_DIR}/deep_gemm/__init__.py"
  DESTINATION vllm/third_party/deep_gemm COMPONENT _deep_gemm_C)
"""
SCRIPT = b"""\
import pathlib
import subprocess
import sys
import sysconfig

source, out = map(pathlib.Path, sys.argv[1:])
out.mkdir(parents=True, exist_ok=True)
made = out / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
subprocess.check_call(["c++", "-shared", "-fPIC", source / "csrc/api.cpp", "-o", made])
"""
FILES: dict[str, bytes] = {
    "CMakeLists.txt": compiling.CMAKE_LISTS + INCLUDES,
    "cmake/external_projects/kernels.cmake": KERNELS_CMAKE,
    "cmake/external_projects/deepgemm.cmake": DEEPGEMM_CMAKE,
    "tools/build_deepgemm_C.py": SCRIPT,
    "vllm/utils/deep_gemm.py": b"# deep_gemm\n",
}
API = b"""\
#include <cstdlib>
extern "C" int number() { return 1; }
extern "C" void PyInit_%s() { abort(); }
"""
BETTER = (API % b"_C").replace(b"return 1", b"return 2")


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """The world and the repositories of its inner sources."""

    world: World
    kernels: Repository
    deepgemm: Repository

    def publish(self, pythons: Iterable[str]) -> None:
        """Another published wheel, whose DeepGEMM is for these Pythons (``311``)."""
        world, path = self.world, self.world.root / "bases.toml"
        text = path.read_text(encoding="utf-8")
        for machine in world.wheels:
            new = small.make_wheel(members(pythons, machine))
            row = rf'(wheels\.{machine} = .*sha256 = ")\w+'
            text = re.sub(row, rf"\g<1>{small.sha256(new)}", text)
            world.index.add("vllm", small.WHEELS[machine], new)
            world.wheels[machine] = new
        path.write_text(text, encoding="utf-8")

    def lift(self, name: str, repository: Repository, files: Mapping[str, bytes]) -> str:
        """Pin another commit of a source for what is compiled; its id."""
        new = repository.commit(files)
        row = f'lifted.{name} = {{ repository = "{repository.root}", pin = "{new}", why = "w" }}\n'
        with (self.world.root / "bases.toml").open("a", encoding="utf-8") as bases:
            bases.write(row)
        return new

    def add_inner_patch(self, content: bytes) -> None:
        folder = self.world.root / "patches" / "deepgemm"
        folder.mkdir(exist_ok=True)
        (folder / "dg.patch").write_bytes(content)
        with (self.world.root / "series.txt").open("a", encoding="utf-8") as series:
            series.write("deepgemm/dg.patch\n")


def members(pythons: Iterable[str], machine: str) -> dict[str, bytes]:
    """What the published wheel has besides the small one's: every component in its place."""
    code = small.shared_object()
    plain = {f"vllm/{name}.abi3.so": code for name in COMPONENTS[1:-1]}
    tags = (f"cpython-{python}-{machine}-linux-gnu" for python in pythons)
    return plain | {f"vllm/third_party/deep_gemm/_C.{tag}.so": code for tag in tags}


def make_scripted(folder: Path, index: Index, code: Path) -> Scripted:
    world = compiling.make_compiling(
        folder, index, code, tree={**compiling.TREE, **FILES}, components=COMPONENTS
    )
    kernels = new_repository(folder / "kernels", {"csrc/api.cpp": API % b"_kernels_C"})
    files = {"csrc/api.cpp": API % b"_C", "deep_gemm/__init__.py": b"# ours\n"}
    deepgemm = new_repository(folder / "deepgemm", files)
    path = world.root / "bases.toml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("https://deepgemm.example/x.git", str(deepgemm.root))
    text = text.replace("ab" * 20, deepgemm.text("rev-parse", "HEAD"))
    pin = kernels.text("rev-parse", "HEAD")
    text += f'inner.kernels = {{ repository = "{kernels.root}", pin = "{pin}" }}\n'
    path.write_text(text, encoding="utf-8")
    made = Scripted(world=world, kernels=kernels, deepgemm=deepgemm)
    made.publish([HERE])
    return made


@contextmanager
def with_environment(folder: Path, code: Path) -> Iterator[Scripted]:
    """The world with its build environment made."""
    with serve() as index:
        made = make_scripted(folder, index, code)
        built = made.world.build("--native", "_C", "--json")
        assert built.status == 0, built.err
        yield made


@contextmanager
def restored(made: Scripted) -> Iterator[Scripted]:
    """The world as it was made, with no inner source in its cache; it is put back afterwards."""
    world = made.world
    files = [world.root / "bases.toml", world.root / "series.txt"]
    before = [path.read_bytes() for path in files]
    heads = {one: one.text("rev-parse", "HEAD") for one in (made.deepgemm, made.kernels)}
    wheels = dict(world.wheels)
    yield made
    for path, content in zip(files, before, strict=True):
        path.write_bytes(content)
    for one, head in heads.items():
        one.git("reset", "--quiet", "--hard", head)
        one.git("clean", "--quiet", "-fdx")
    world.wheels.update(wheels)
    for machine, content in wheels.items():
        world.index.add("vllm", small.WHEELS[machine], content)
    shutil.rmtree(world.root / "patches" / "deepgemm", ignore_errors=True)
    for folder in (world.out, world.cache / "native", world.cache / "inner"):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(world.cache / "store.git")


def plan(made: Scripted, *args: str) -> dict[str, Any]:
    return made.world.good("plan", "--json", *args).document


def found(document: dict[str, Any], name: str) -> tuple[str, str]:
    """(action, why) of a component."""
    (one,) = [one for one in document["components"] if one["name"] == name]
    return one["action"], one["why"]


def gone(repository: Repository) -> Repository:
    """Put a repository where nobody finds it."""
    return Repository(root=repository.root.rename(repository.root.with_name("gone")))


def add_patch(made: Scripted) -> None:
    change = made.deepgemm.patch({"csrc/api.cpp": BETTER}, Topic="dg-test", Components=DEEPGEMM)
    made.deepgemm.git("reset", "--quiet", "--hard", "HEAD~1")
    made.add_inner_patch(change)
