# SPDX-License-Identifier: Apache-2.0
"""A small package that is built the way vLLM is: setup.py, CMake, an inner source, one extension.

Its setup.py follows the protocol of upstream's (which variables it reads, how it calls CMake), and
notes what it was told and whether it could reach a server.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

SETUP = """
    import json, os, shutil, socket, subprocess, sys
    from pathlib import Path
    from setuptools import Extension, setup
    from setuptools.command.build_ext import build_ext
    from setuptools_scm import get_version

    TOLD = ("MAX_JOBS", "CMAKE_ARGS", "VLLM_USE_PRECOMPILED", "VLLM_USE_PRECOMPILED_RUST",
            "VLLM_PRECOMPILED_WHEEL_LOCATION", "VLLM_TARGET_DEVICE", "TORCH_CUDA_ARCH_LIST")

    def reached():
        with socket.socket() as probe:
            probe.settimeout(5)
            return probe.connect_ex(("127.0.0.1", int(os.environ["STANDIN_PORT"]))) == 0

    class CMakeExtension(Extension):
        def __init__(self, name):
            super().__init__(name, sources=[], py_limited_api=True)

    class cmake_build_ext(build_ext):
        def build_extensions(self):
            os.makedirs(self.build_temp, exist_ok=True)
            args = ["-DCMAKE_BUILD_TYPE=" + os.environ["CMAKE_BUILD_TYPE"]]
            if shutil.which("ccache"):
                args += ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]
            args += ["-DVLLM_PYTHON_EXECUTABLE=" + sys.executable]
            args += ["-DFETCHCONTENT_BASE_DIR=" + os.environ["FETCHCONTENT_BASE_DIR"]]
            args += os.environ["CMAKE_ARGS"].split()
            here = os.path.dirname(os.path.abspath(__file__))
            subprocess.check_call(["cmake", here, "-G", "Ninja", *args], cwd=self.build_temp)
            jobs = "-j=" + os.environ["MAX_JOBS"]
            build = ["cmake", "--build", ".", jobs, "--target=_C"]
            subprocess.check_call(build, cwd=self.build_temp)
            out = Path(self.get_ext_fullpath("vllm._C")).parent.parent.absolute()
            install = ["cmake", "--install", ".", "--prefix", out, "--component", "_C"]
            subprocess.check_call(install, cwd=self.build_temp)

    os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"] = os.environ["VLLM_VERSION_OVERRIDE"]
    version = get_version(write_to="vllm/_version.py")
    seen = {name: os.environ.get(name) for name in TOLD} | {"reached": reached()}
    Path("vllm/seen.json").write_text(json.dumps(seen))
    setup(name="vllm", version=version, packages=["vllm"], package_data={"vllm": ["seen.json"]},
          install_requires=["torch==2.11.0"], ext_modules=[CMakeExtension("vllm._C")],
          cmdclass={"build_ext": cmake_build_ext})
"""
CMAKE = """
    cmake_minimum_required(VERSION 3.26)
    project(standin LANGUAGES CXX)
    include(FetchContent)
    if (DEFINED ENV{VLLM_CUTLASS_SRC_DIR})
      FetchContent_Declare(cutlass SOURCE_DIR $ENV{VLLM_CUTLASS_SRC_DIR})
    else()
      FetchContent_Declare(cutlass GIT_REPOSITORY https://git.example/cutlass.git GIT_TAG v4.9.0)
    endif()
    FetchContent_MakeAvailable(cutlass)
    set(CUTLASS_INCLUDE_DIR ${cutlass_SOURCE_DIR}/include)
    string(REPLACE ";" "," ARCH "$ENV{TORCH_CUDA_ARCH_LIST}")
    function (define_extension_target NAME)
      cmake_parse_arguments(GIVEN "" "" "SOURCES;INCLUDE_DIRECTORIES" ${ARGN})
      add_library(${NAME} MODULE ${GIVEN_SOURCES})
      target_include_directories(${NAME} PRIVATE ${GIVEN_INCLUDE_DIRECTORIES})
      target_compile_definitions(${NAME} PRIVATE ARCH="${ARCH}")
      set_target_properties(${NAME} PROPERTIES PREFIX "" OUTPUT_NAME ${NAME}.abi3)
      install(TARGETS ${NAME} LIBRARY DESTINATION vllm COMPONENT ${NAME})
    endfunction()
    define_extension_target(_C SOURCES csrc/one.cpp csrc/two.cpp
      INCLUDE_DIRECTORIES ${CUTLASS_INCLUDE_DIR})
"""
# Sources of a processor's own extension name other folders, which a CUDA build never reads.
CPU_CMAKE = "set(ONEDNN $ENV{ONEDNN_SRC_DIR})\n"
FILES = {
    "setup.py": SETUP,
    "CMakeLists.txt": CMAKE,
    "cmake/cpu_extension.cmake": CPU_CMAKE,
    # auditwheel knows a Python extension by its entry point, and its libc by what it needs.
    "csrc/one.cpp": """
        #include <cutlass/cutlass.h>
        #include <cstdlib>
        extern "C" int inner() { return CUTLASS; }
        extern "C" void PyInit__C() { abort(); }
    """,
    "csrc/two.cpp": 'extern "C" const char* arch() { return ARCH; }\n',
    "vllm/__init__.py": "",
    "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\n',
}


def files() -> dict[str, str]:
    """The package's files by path."""
    return {name: textwrap.dedent(text).lstrip("\n") for name, text in FILES.items()}


def write_tree(folder: Path) -> Path:
    for name, text in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def write_inner(folder: Path, value: int = 7) -> Path:
    headers = folder / "include" / "cutlass"
    headers.mkdir(parents=True)
    (headers / "cutlass.h").write_text(f"#define CUTLASS {value}\n", encoding="utf-8")
    (folder / "tools" / "util" / "include").mkdir(parents=True)
    return folder
