# SPDX-License-Identifier: Apache-2.0
"""A small CUDA extension, compiled here for aarch64 as the recipe does it, and looked into.

It takes the build environment of a base for this machine, whose nvcc crosses, and the CUDA runtime
for aarch64, which is a few MB.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from recipe.bases.releases import Bases
from recipe.compile.configure import Place, configure
from recipe.compile.ninja import compile_components
from recipe.compile.toolchain import toolkit
from recipe.compile.toolchain.environment import NativeEnv, native_env
from recipe.compile.toolchain.python import find_python
from recipe.compile.toolchain.symbols import check_symbols
from recipe.compile.toolchain.target import TARGETS
from recipe.gpu.arch import Verdict
from recipe.gpu.code import verdicts
from recipe.ground.environments.made import QUIET_PIP
from recipe.ground.errors import AuditError
from recipe.ground.project import Project
from recipe.wheel.check import binaries_tag
from tests.recipe.world import CHECKOUT, MACHINE, Checkout

SPARK = TARGETS["x86_64", "aarch64"]
BASE = "v0.20.2"
CMAKE = """
    cmake_minimum_required(VERSION 3.26)
    project(small LANGUAGES CXX CUDA)
    find_package(Python COMPONENTS Interpreter Development.Module)
    find_package(CUDAToolkit REQUIRED)
    Python_add_library(_small_C MODULE WITH_SOABI small.cu)
    set_target_properties(_small_C PROPERTIES CUDA_ARCHITECTURES OFF)
    target_compile_options(_small_C PRIVATE "-gencode=arch=compute_120f,code=sm_120f")
    target_link_libraries(_small_C PRIVATE CUDA::cudart)
    install(TARGETS _small_C LIBRARY DESTINATION vllm COMPONENT _small_C)
"""
SOURCE = """
    #include <Python.h>
    #include <string>
    static_assert(sizeof(std::string) == 32);
    __global__ void twice(float* x) { x[threadIdx.x] *= 2; }
    extern "C" PyObject* PyInit__small_C() {
      twice<<<1, 32>>>(nullptr);
      return PyLong_FromLong(cudaDeviceSynchronize() + std::to_string(sizeof(void*)).size());
    }
"""

pytestmark = [
    pytest.mark.skipif(MACHINE != "x86_64", reason="nvcc crosses from x86_64"),
    pytest.mark.skipif(
        shutil.which(f"{SPARK.triple}-g++") is None, reason=f"{SPARK.package} isn't installed"
    ),
]


@pytest.fixture(scope="module")
def crossing(
    bases: Bases, real: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NativeEnv]:
    """A build environment for aarch64 with a CUDA runtime and nothing else of it."""
    project = Project(root=CHECKOUT, cache=real.cache)
    base = bases.find(BASE)
    native = native_env(project, base, *find_python(base, None), offline=False)
    folder = tmp_path_factory.mktemp("aarch64")
    site = folder / "lib" / f"python{native.python}" / "site-packages"
    pip = [sys.executable, "-m", "pip", "install", *QUIET_PIP, "--only-binary=:all:"]
    wanted = [f"--platform={tag}" for tag in SPARK.wheels] + ["--target", str(site)]
    release = native.toolkit.version.rpartition(".")[0]
    subprocess.run([*pip, *wanted, f"cuda-toolkit[cudart,crt,cccl]=={release}.*"], check=True)
    libraries = site / "nvidia" / f"cu{release.partition('.')[0]}"
    for path in toolkit.LOOKED_FOR:  # what this source takes nothing from
        absent = libraries / path.replace("lib64/", "lib/")
        if path.startswith(("include/", "lib64/")) and not list(
            absent.parent.glob(f"{absent.name}*")
        ):
            absent.touch()
    root = folder / "toolkit"
    toolkit.lay_out_crossed(native.toolkit.root, libraries, root, SPARK.tool("gcc"))
    laid = toolkit.Toolkit(root=root, version=native.toolkit.version, why="a test's")
    yield replace(native, shelf=folder, toolkit=laid, target=SPARK)


@pytest.fixture(scope="module")
def installed(crossing: NativeEnv, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The extension's files by their path in a wheel."""
    folder = tmp_path_factory.mktemp("small")
    place = Place(tree=folder / "source", build=folder / "build", inner={})
    place.tree.mkdir()
    for name, text in {"CMakeLists.txt": CMAKE, "small.cu": SOURCE}.items():
        (place.tree / name).write_text(textwrap.dedent(text), encoding="utf-8")
    configure(crossing, place, "12.1")
    made = compile_components(
        crossing,
        place,
        "12.1",
        ("_small_C",),
        asked_jobs=1,
        cache=None,
        peaks=folder,
        into=folder / "installed",
    )
    return dict(made.installed["_small_C"])


def test_the_extension_is_named_and_made_for_the_other_machine(
    crossing: NativeEnv, installed: dict[str, Path]
) -> None:
    digits = crossing.python.replace(".", "")
    assert list(installed) == [f"vllm/_small_C.cpython-{digits}-aarch64-linux-gnu.so"]
    (path,) = installed.values()
    said = subprocess.run(["readelf", "-h", path], capture_output=True, check=True, text=True)
    assert "AArch64" in said.stdout


def test_its_gpu_code_is_what_both_chips_run(installed: dict[str, Path]) -> None:
    (path,) = installed.values()
    assert verdicts(path, ("12.0", "12.1")) == {"12.0": Verdict.FAMILY, "12.1": Verdict.FAMILY}


def test_its_symbols_are_looked_up_in_the_other_machines_libraries(
    crossing: NativeEnv, installed: dict[str, Path], tmp_path: Path
) -> None:
    (path,) = installed.values()
    check_symbols(path, crossing.library_folders)
    with pytest.raises(AuditError, match="needs symbols that nothing has"):
        check_symbols(path, [tmp_path])


def test_a_wheel_of_it_gets_a_tag_of_the_other_machine(
    installed: dict[str, Path], tmp_path: Path
) -> None:
    tag = binaries_tag(installed, SPARK.machine, tmp_path)
    assert tag.startswith("manylinux_2_")
    assert tag.endswith("_aarch64")
