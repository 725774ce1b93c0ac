# SPDX-License-Identifier: Apache-2.0
"""Each fault of an installation is found by the doctor, and none in a sound one.

An installation is a folder: this wheel's own metadata, record and extensions, and for everything
that it asks for a package of that name and of a version that it takes. torch's and NVIDIA's
libraries are made with exactly the symbols that the extensions take from them.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

# What the METADATA of torch 2.11.0 asks for besides Python's common libraries.
TORCH_ASKS = ("nvidia-cudnn-cu13==9.19.0.56", "nvidia-nccl-cu13==2.28.9", "triton==3.6.0")
VERSION_PY = """from typing import Optional
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda!r}
git_version = '70d99e998b4955e0049d13a98d77ae1b14db1f45'
hip: Optional[str] = None
"""
TORCH_PY = "from . import version\nclass cuda:\n    is_available = staticmethod(lambda: False)\n"
SMI = '#!/bin/sh\necho "{version}, 12.0, 97887, NVIDIA RTX PRO 6000 Blackwell"\n'
SAYS = '#!/bin/sh\necho "Cuda compilation tools, release {release}, V{release}.86"\n'
GCC = '#!/bin/sh\n[ "$1" = -dumpversion ] && echo 13 || echo "gcc 13.2 Free Software Foundation"\n'


class Installation:
    """One that the doctor is run in, apart from everything installed where the tests run."""

    def __init__(self, folder: Path, wheel: Distribution, package: Path) -> None:
        self.site, self.bin = folder / "site", folder / "bin"
        self.env: dict[str, str] = {}
        self.site.mkdir()
        self.bin.mkdir()
        self.asked = [Requirement(text) for text in wheel.requires or ()]
        self.asked = [one for one in self.asked if not one.marker or one.marker.evaluate()]
        self.pins = {one.name: str(one.specifier)[2:] for one in self.asked}
        shutil.copytree(wheel._path, self.site / wheel._path.name)  # type: ignore[attr-defined]
        (self.site / "vllm").mkdir()
        (self.site / "vllm" / "sm12x").symlink_to(package / "sm12x")
        self.extension = next(iter(sorted(package.glob("_C*.abi3.so"))))
        (self.site / "vllm" / self.extension.name).symlink_to(self.extension)
        for one in self.asked:
            self.put(one.name, fitting(one))
        self.put("torch", self.pins["torch"], requires=TORCH_ASKS)
        for text in TORCH_ASKS:
            name, _, version = text.partition("==")
            self.put(name, version)
        self.torch(self.pins["torch"] + "+cu130", "13.0")
        self.program("nvidia-smi", SMI.format(version="580.95.05"))
        self.program("nvcc", SAYS.format(release="13.0"))
        self.program("gcc", GCC)
        assembler = self.site / "triton" / "backends" / "nvidia" / "bin" / "ptxas-blackwell"
        assembler.parent.mkdir(parents=True)
        (self.site / "triton" / "__init__.py").touch()
        write(assembler, SAYS.format(release="12.9"))
        self.env["MAX_JOBS"] = "1"

    def put(self, name: str, version: str, requires: tuple[str, ...] = ()) -> None:
        """Install a package's metadata in the place of any other version's."""
        self.drop(name)
        folder = self.site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def drop(self, name: str) -> None:
        for old in self.site.glob(f"{name.replace('-', '_')}-[0-9]*.dist-info"):
            shutil.rmtree(old)

    def torch(self, version: str, cuda: str | None) -> None:
        package = self.site / "torch"
        (package / "lib").mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(TORCH_PY, encoding="utf-8")
        text = VERSION_PY.format(version=version, cuda=cuda)
        (package / "version.py").write_text(text, encoding="utf-8")

    def program(self, name: str, text: str) -> None:
        write(self.bin / name, text)

    def doctor(self) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-S", "-m", "vllm.sm12x.doctor", "--json"],
            env={"PYTHONPATH": str(self.site), "PATH": str(self.bin), "HOME": "/"} | self.env,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def fitting(asked: Requirement) -> str:
    """A version that a requirement takes: one that it names, or the next to it."""
    named = [spec.version.rstrip(".*") for spec in asked.specifier]
    tried = [*named, *(f"{text}.1" for text in named), "99"]
    return next(text for text in tried if asked.specifier.contains(text, prereleases=True))


@pytest.fixture(scope="module")
def wheel(base: Version) -> tuple[Distribution, Path]:
    import vllm

    package = Path(vllm.__path__[0])
    (metadata,) = package.parent.glob("vllm-*.dist-info")
    return Distribution.at(metadata), package


@pytest.fixture(scope="module")
def libraries(
    wheel: tuple[Distribution, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path, int], None]:
    """Puts what the first extension needs into a folder, without the last few symbols."""
    from vllm.sm12x.doctor.faults import elf, libraries

    if shutil.which("gcc") is None:
        pytest.skip("no gcc makes the libraries that stand for torch's")
    extension = next(iter(sorted(wheel[1].glob("_C*.abi3.so"))))
    own = elf.read(extension)
    assert own is not None
    system = libraries.Libraries(libraries.places([]))
    here = {name: system.find(name) for name in own.needed}
    wanted = {name for name in own.wanted if not libraries._LOADED_LATER.match(name)}
    torchs = sorted(wanted.difference(*(one.defined for one in here.values() if one)))
    made = tmp_path_factory.mktemp("libraries")

    def put(folder: Path, without: int) -> None:
        source, ready = made / f"{without}.c", made / f"{without}.so"
        if not ready.exists():
            kept = torchs[: len(torchs) - without]
            lines = [f'int s{i} __asm__("{name}") = 1;' for i, name in enumerate(kept)]
            source.write_text("\n".join(lines), encoding="utf-8")
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", ready, source], check=True)
        for name in own.needed:
            if here[name] is None or libraries.TORCHS_LIBRARIES.match(name):
                shutil.copy(ready, folder / name)

    return put


@pytest.fixture
def sound(
    tmp_path: Path, wheel: tuple[Distribution, Path], libraries: Callable[[Path, int], None]
) -> Iterator[Installation]:
    installation = Installation(tmp_path, *wheel)
    libraries(installation.site / "torch" / "lib", 0)
    yield installation


def kinds(document: dict[str, Any]) -> set[str]:
    # Whether the Python that runs this has its headers is no business of the installation's.
    return {fault["kind"] for fault in document["faults"]} - without_headers()


def without_headers() -> set[str]:
    there = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return set() if there else {"compiler"}


def test_nothing_is_found_in_a_sound_one(sound: Installation) -> None:
    code, document = sound.doctor()
    assert kinds(document) == set(), document["faults"]
    assert code == (8 if without_headers() else 0)
    assert document["devices"][0]["capability"] == [12, 0]
    assert {row["path"] for row in document["paths"]} <= {"upstream", "triton", "none"}


Break = Callable[[Installation], None]


def cpu_torch(one: Installation) -> None:
    one.torch("2.13.0+cpu", None)
    one.put("torch", "2.13.0+cpu")


def old_flashinfer(one: Installation) -> None:
    one.put("flashinfer-cubin", "0.6.1")


def unchecked(one: Installation) -> None:
    old_flashinfer(one)
    one.env["FLASHINFER_DISABLE_VERSION_CHECK"] = "1"


def twice(one: Installation) -> None:
    text = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.1.0\n"
    (one.site / "vllm-0.1.0.dist-info").mkdir()
    (one.site / "vllm-0.1.0.dist-info" / "METADATA").write_text(text, encoding="utf-8")


def crossed_jit_cache(one: Installation) -> None:
    one.put("flashinfer-jit-cache", "0.6.1+cu130")


def broken(one: Installation) -> None:
    text = "raise ImportError('libcudart.so.13: cannot open shared object file')\n"
    (one.site / "torch" / "__init__.py").write_text(text, encoding="utf-8")


CASES: dict[str, tuple[Break, str, bool, str]] = {
    "torch for the CPU": (cpu_torch, "torch_cpu", True, "2.13.0+cpu is built for the CPU"),
    "another torch": (
        lambda one: one.put("torch", "2.10.0"),
        "version",
        True,
        "pip install torch==",
    ),
    "cu132": (
        lambda one: one.torch(one.pins["torch"] + "+cu132", "13.2"),
        "torch_cuda",
        False,
        "13.2",
    ),
    "cu128": (
        lambda one: one.torch(one.pins["torch"] + "+cu128", "12.8"),
        "torch_cuda",
        True,
        "12.8",
    ),
    "no numba": (lambda one: one.drop("numba"), "missing", True, "pip install numba=="),
    "another numba": (lambda one: one.put("numba", "0.1"), "version", False, "numba 0.1"),
    "another Triton": (
        lambda one: one.put("triton", "3.1.0"),
        "version",
        True,
        "torch was made for",
    ),
    "cubins of another version": (old_flashinfer, "flashinfer", True, "flashinfer-cubin==0."),
    "unchecked": (unchecked, "flashinfer", False, "FLASHINFER_DISABLE_VERSION_CHECK is set"),
    "jit-cache": (crossed_jit_cache, "flashinfer", True, "flashinfer-jit-cache 0.6.1+cu130"),
    "old driver": (
        lambda one: one.program("nvidia-smi", SMI.format(version="550.54.15")),
        "driver",
        True,
        "550.54.15 is older than 580.65",
    ),
    "twice": (twice, "duplicate", True, "0.1.0 and"),
    "broken": (broken, "torch_broken", True, "libcudart.so.13: cannot open"),
    "no compiler": (
        lambda one: (one.bin / "gcc").unlink(),
        "compiler",
        True,
        "apt-get install gcc",
    ),
    "nvcc of CUDA 12": (
        lambda one: one.program("nvcc", SAYS.format(release="12.6")),
        "nvcc",
        False,
        "is of CUDA 12.6",
    ),
    "old GCC": (
        lambda one: one.program("gcc", GCC.replace("13", "8")),
        "nvcc",
        False,
        "is GCC 8",
    ),
    "many compilers": (
        lambda one: one.env.update(MAX_JOBS="4000"),
        "jobs",
        False,
        "export MAX_JOBS=",
    ),
    "old assembler": (
        lambda one: write(
            one.site / "triton/backends/nvidia/bin/ptxas-blackwell", SAYS.format(release="12.4")
        ),
        "ptxas",
        True,
        "is of CUDA 12.4",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_is_found_told_and_counted(sound: Installation, case: str) -> None:
    spoil, kind, stops, told = CASES[case]
    spoil(sound)
    code, document = sound.doctor()
    found = [fault for fault in document["faults"] if fault["kind"] == kind]
    said = [f"{one['what']}: {one['means']}. Type: {one['next']}" for one in found]
    assert any(told in line for line in said), document["faults"]
    assert any(one["stops"] for one in found) is stops
    assert code == (8 if any(one["stops"] for one in document["faults"]) else 0)
    allowed = {kind, "symbols", "version"} if case == "torch for the CPU" else {kind}
    if case.startswith(("cubins", "unchecked")):
        allowed |= {"version"}  # up to v0.32 the wheel itself pins the cubins
    assert kinds(document) <= allowed, document["faults"]


def test_symbols_that_torch_lacks_are_counted(
    sound: Installation, libraries: Callable[[Path, int], None]
) -> None:
    libraries(sound.site / "torch" / "lib", 20)
    code, document = sound.doctor()
    (fault,) = (one for one in document["faults"] if one["kind"] == "symbols")
    assert code == 8 and fault["what"].startswith("20 of ")
    assert sound.extension.name in fault["what"]


def test_a_library_that_is_nowhere_is_named(sound: Installation) -> None:
    for path in (sound.site / "torch" / "lib").glob("libtorch_cuda.so"):
        path.unlink()
    code, document = sound.doctor()
    (fault,) = (one for one in document["faults"] if one["kind"] == "library")
    assert code == 8 and "libtorch_cuda.so" in fault["what"]


def test_without_nvcc_only_what_needs_it_is_told_of(sound: Installation, base: Version) -> None:
    """DeepGEMM compiles when it runs: where vLLM goes through it and it has kernels."""
    from vllm.sm12x.support.gemm import BUNDLED, KERNEL_SOURCE

    (sound.bin / "nvcc").unlink()
    if Path("/usr/local/cuda/bin/nvcc").exists():
        sound.env["CUDA_HOME"] = str(sound.site)
    assert kinds(sound.doctor()[1]) == set()
    bundled = sound.site / "vllm" / BUNDLED
    (bundled / KERNEL_SOURCE).parent.mkdir(parents=True)
    (bundled / "__init__.py").touch()
    (bundled / KERNEL_SOURCE).touch()
    expected = {"nvcc"} if base >= Version("0.24") else set()
    assert kinds(sound.doctor()[1]) == expected


def test_without_the_library_of_versions_pins_are_judged_all_the_same(sound: Installation) -> None:
    """Nothing but Python's own library is there: -S leaves packaging and pip out."""
    sound.put("torch", "2.10.0")
    sound.drop("numba")
    assert not list(sound.site.glob("packaging/*")) and not os.environ.get("PYTHONHOME")
    assert {"version", "missing"} <= kinds(sound.doctor()[1])


def test_with_it_ranges_are_judged(sound: Installation) -> None:
    import packaging

    (sound.site / "packaging").symlink_to(Path(packaging.__path__[0]))
    assert kinds(sound.doctor()[1]) == set()
    one = next(one for one in sound.asked if any(s.operator == ">=" for s in one.specifier))
    sound.put(one.name, "0.0.1")
    _, document = sound.doctor()
    (fault,) = document["faults"] if not without_headers() else document["faults"][-1:]
    assert fault["what"] == f"{one.name} 0.0.1 is installed" and not fault["stops"]
    assert str(one.specifier) in fault["means"]
