# SPDX-License-Identifier: Apache-2.0
"""Which CUDA toolkit compiles, and how packages become one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipe.compile.toolchain.toolkit import Candidate, lay_out, machine_toolkit, packaged_version
from recipe.ground.errors import MachineError
from tests.recipe.compiling import fake_toolkit


def test_a_toolkit_of_torchs_version_is_taken(tmp_path: Path) -> None:
    root = fake_toolkit(tmp_path / "cuda")
    found, refused = machine_toolkit("13.0", [Candidate(root=root, asked=None)])
    assert found is not None
    assert (found.root, found.version, refused) == (root, "13.0.88", [])


def test_one_that_is_only_there_and_does_not_fit_is_passed_over(tmp_path: Path) -> None:
    old = fake_toolkit(tmp_path / "old", "12.8.93")
    bare = fake_toolkit(tmp_path / "bare", without="include/cublas_v2.h")
    places = [Candidate(root=root, asked=None) for root in (tmp_path / "none", old, bare)]
    found, refused = machine_toolkit("13.0", places)
    assert found is None
    assert refused == [
        f"{old} is CUDA 12.8.93, torch was built with 13.0",
        f"{bare} is CUDA 13.0.88 and lacks include/cublas_v2.h",
    ]


@pytest.mark.parametrize(
    ("version", "without", "why"),
    [
        ("12.8.93", "", "is CUDA 12.8.93, torch was built with 13.0"),
        ("13.1.80", "", "is CUDA 13.1.80, torch was built with 13.0"),
        ("13.0.88", "nvvm/bin/cicc", "is CUDA 13.0.88 and lacks nvvm/bin/cicc"),
        ("nonsense", "", "is CUDA of an unknown version"),
    ],
)
def test_one_that_is_named_and_does_not_fit_is_an_error(
    tmp_path: Path, version: str, without: str, why: str
) -> None:
    root = fake_toolkit(tmp_path / "cuda", version, without)
    with pytest.raises(MachineError, match="CUDA_HOME") as stopped:
        machine_toolkit("13.0", [Candidate(root=root, asked="CUDA_HOME")])
    assert why in stopped.value.what
    assert stopped.value.exit_code == 8


def test_a_named_folder_without_nvcc_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="has no bin/nvcc"):
        machine_toolkit("13.0", [Candidate(root=tmp_path, asked="CUDA_PATH")])


def test_torch_names_the_version_of_the_packages() -> None:
    line = 'cuda-toolkit[cublas,cudart]==13.0.2; platform_system == "Linux"'
    assert packaged_version(["filelock", line]) == "13.0.2"
    assert packaged_version(["filelock"]) is None


def packages(site: Path) -> Path:
    """NVIDIA's packages as pip lays them: programs, headers, versioned libraries."""
    root = fake_toolkit(site / "nvidia" / "cu13")
    libraries = root / "lib"
    libraries.mkdir()
    for path in (root / "lib64").iterdir():
        path.rename(libraries / f"{path.name}.13")
    (root / "lib64").rmdir()
    return site


def test_packages_are_laid_out_as_nvcc_and_the_linker_want_them(tmp_path: Path) -> None:
    site = packages(tmp_path / "site")
    made = lay_out([site], tmp_path / "toolkit", "13.0")
    assert made.version == "13.0.88"
    assert not (made.root / "bin" / "nvcc").is_symlink()
    assert (made.root / "lib64" / "libcudart.so").resolve().name == "libcudart.so.13"
    stub = made.root / "lib64" / "stubs" / "libcuda.so"
    said = subprocess.run(["readelf", "-d", str(stub)], capture_output=True, check=True, text=True)
    assert "[libcuda.so.1]" in said.stdout
    # Once more over what a killed run left.
    assert lay_out([site], tmp_path / "toolkit", "13.0") == made


def test_packages_that_lack_a_part_are_refused(tmp_path: Path) -> None:
    site = packages(tmp_path / "site")
    (site / "nvidia/cu13/nvvm/bin/cicc").unlink()
    with pytest.raises(MachineError, match="lack nvvm/bin/cicc"):
        lay_out([site], tmp_path / "toolkit", "13.0")
