# SPDX-License-Identifier: Apache-2.0
"""A small release with extensions that CMake really compiles, in C++, and all that compiles them.

Its torch and its CUDA toolkit are shells that say the right version; CMake, ninja, the compiler,
ccache and pip are the real ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import cmake
import ninja

from tests.recipe import small
from tests.recipe.packages import pure_wheel
from tests.recipe.repo import new_repository
from tests.recipe.server import Index
from tests.recipe.world import World, make_world

CMAKE_LISTS = (
    b"cmake_minimum_required(VERSION 3.18)\nproject(vllm LANGUAGES CXX)\n"
    + small.CMAKE
    + b"""\
foreach(name _C _moe_C)
  string(TOLOWER "${name}" folder)
  file(GLOB sources "${CMAKE_SOURCE_DIR}/csrc/${folder}/*.cpp")
  add_library(${name} MODULE ${sources})
  target_include_directories(${name} PRIVATE csrc)
  set_target_properties(${name} PROPERTIES PREFIX "" SUFFIX ".abi3.so")
  install(TARGETS ${name} LIBRARY DESTINATION vllm COMPONENT ${name})
endforeach()
"""
)
SOURCES = {
    "CMakeLists.txt": CMAKE_LISTS,
    "csrc/shared.h": b"#pragma once\nint shared();\n",
    "csrc/_c/one.cpp": b'#include "shared.h"\nextern "C" int answer() { return 41; }\n',
    # auditwheel knows a Python extension by its entry point, and its libc by what it needs.
    "csrc/_c/two.cpp": b"""\
#include <cstdlib>
extern "C" int other() { return 2; }
extern "C" void PyInit__C() { abort(); }
""",
    "csrc/_moe_c/moe.cpp": b"""\
#include <cstdlib>
extern "C" int experts() { return 8; }
extern "C" void PyInit__moe_C() { abort(); }
""",
}
TREE = {**small.TREE, **SOURCES}
LOOKED_FOR = [
    "bin/ptxas",
    "nvvm/bin/cicc",
    "nvvm/libdevice/libdevice.10.bc",
    "include/cuda_runtime.h",
    "include/cublas_v2.h",
    "include/cusparse.h",
    "include/cusolverDn.h",
    "include/curand.h",
    "include/cufft.h",
    "include/nvrtc.h",
    "lib64/libcudart.so",
    "lib64/libcublas.so",
    "lib64/libnvrtc.so",
]


def fake_toolkit(root: Path, version: str = "13.0.88", without: str = "") -> Path:
    """A folder that looks like a CUDA toolkit; `without` leaves one of its files out."""
    for name in LOOKED_FOR:
        if name != without:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    nvcc = root / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release, V{version}'\n")
    nvcc.chmod(0o755)
    return root


def add_torch(index: Index, version: str = "2.11.0", cuda: str = "'13.0'") -> None:
    """A torch whose version file is the real one's."""
    members = {
        "torch/__init__.py": f"__version__ = {version!r}\n".encode(),
        "torch/version.py": f"from typing import Optional\ncuda: Optional[str] = {cuda}\n".encode(),
        "torch/lib/libtorch.so": small.shared_object(),
    }
    index.add("torch", f"torch-{version}-py3-none-any.whl", pure_wheel("torch", version, members))


def add_tools(world: World, behind: Path | None = None) -> None:
    """CMake and ninja as packages that call the real ones, in a lock with hashes.

    `behind`: a folder of packages that the build environment sees before its own.
    """
    real = {"cmake": Path(cmake.CMAKE_BIN_DIR) / "cmake", "ninja": Path(ninja.BIN_DIR) / "ninja"}
    packages = {
        name: {f"{name}-1.data/scripts/{name}": f'#!/bin/sh\nexec {program} "$@"\n'.encode()}
        for name, program in real.items()
    }
    if behind:
        line = f"import sys; sys.path.insert(0, {str(behind)!r})\n"
        packages["behind"] = {"behind.pth": line.encode()}
    rows = []
    for name, members in packages.items():
        content = pure_wheel(name, "1", members)
        world.index.add(name, f"{name}-1-py3-none-any.whl", content)
        rows.append(f"{name}==1 --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
    (world.root / "requirements").mkdir()
    (world.root / "requirements" / "native.lock").write_text("".join(rows), encoding="utf-8")


def make_compiling(
    folder: Path,
    index: Index,
    code: Path,
    *,
    tree: Mapping[str, bytes] = TREE,
    components: tuple[str, ...] = ("_C", "_moe_C"),
    behind: Path | None = None,
) -> World:
    """A world whose release compiles `components`, of which the published wheel has all."""
    plain = make_world(folder, index, code)
    sdist = small.make_sdist(tree)
    others = {f"vllm/{name}.abi3.so": small.shared_object() for name in components if name != "_C"}
    wheels = {machine: small.make_wheel(others) for machine in small.WHEELS}
    index.add("vllm", small.SDIST, sdist)
    for machine, content in wheels.items():
        index.add("vllm", small.WHEELS[machine], content)
    text = small.bases_toml(sdist, wheels).replace('["_C"]', json.dumps(components))
    (plain.root / "bases.toml").write_text(text, encoding="utf-8")
    toolkit = fake_toolkit(folder / "cuda")
    world = World(
        root=plain.root,
        cache=plain.cache,
        env={**plain.env, "CUDA_HOME": str(toolkit)},
        dropped=(*plain.dropped, "CCACHE_", "CUDA_"),
        index=index,
        upstream=new_repository(folder / "compiling", tree),
        sdist=sdist,
        wheels=wheels,
    )
    add_torch(index)
    add_tools(world, behind)
    return world
