# SPDX-License-Identifier: Apache-2.0
"""The CUDA toolkit that compiles: the machine's where it fits, else one laid out from packages.

It must be of the version torch was built with: headers, libraries and nvcc go together, and vLLM's
CMake stops otherwise. NVIDIA's packages hold all of a toolkit, in a layout that nvcc and CMake
don't recognise; `lay_out` gives it the usual one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recipe.ground import run
from recipe.ground.errors import MachineError

# The parts of the package cuda-toolkit that a compile of vLLM takes something from.
EXTRAS = (
    *("nvcc", "crt", "nvvm", "cccl", "culibos", "nvml", "nvtx", "profiler", "cudart", "cublas"),
    *("cusparse", "cusolver", "curand", "cufft", "cufile", "nvrtc", "nvjitlink", "cupti"),
)
# What vLLM's CMake and torch's look for; a toolkit without one of them is not used.
LOOKED_FOR = (
    *("bin/nvcc", "bin/ptxas", "nvvm/bin/cicc", "nvvm/libdevice/libdevice.10.bc"),
    *("include/cuda_runtime.h", "include/cublas_v2.h", "include/cusparse.h"),
    *("include/cusolverDn.h", "include/curand.h", "include/cufft.h", "include/nvrtc.h"),
    *("lib64/libcudart.so", "lib64/libcublas.so", "lib64/libnvrtc.so"),
)

# NVIDIA's name for Linux on aarch64 servers, which DGX Spark is to CUDA 13.
CROSS_TARGET = "sbsa-linux"


@dataclass(frozen=True, kw_only=True)
class Toolkit:
    """root: CUDA_HOME. version: nvcc's own, such as 13.0.88. why: how it came to be chosen."""

    root: Path
    version: str
    why: str

    @property
    def nvcc(self) -> Path:
        return self.root / "bin" / "nvcc"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A folder that may hold a toolkit; asked: the variable that names it, or None."""

    root: Path
    asked: str | None


def candidates() -> list[Candidate]:
    """Where a toolkit may be on this machine, what the environment names first."""
    found = []
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            found.append(Candidate(root=Path(os.environ[name]), asked=name))
    nvcc = shutil.which("nvcc")
    if nvcc:
        found.append(Candidate(root=Path(nvcc).resolve().parent.parent, asked=None))
    found.append(Candidate(root=Path("/usr/local/cuda"), asked=None))
    return found


def machine_toolkit(cuda: str, places: Iterable[Candidate]) -> tuple[Toolkit | None, list[str]]:
    """The first fitting toolkit for `cuda` (major.minor), and why the others don't fit.

    One that the environment names and that is of another version is an error: it was meant.
    """
    refused: list[str] = []
    for place in places:
        nvcc = place.root / "bin" / "nvcc"
        if not nvcc.exists():
            if place.asked:
                raise named_wrongly(place, f"has no {nvcc.relative_to(place.root)}")
            continue
        version = nvcc_version(nvcc)
        missing = [path for path in LOOKED_FOR if not (place.root / path).exists()]
        if version.rpartition(".")[0] != cuda:
            why = f"is CUDA {version or 'of an unknown version'}, torch was built with {cuda}"
        elif missing:
            why = f"is CUDA {version} and lacks {', '.join(missing[:3])}"
        else:
            why = f"{place.root} is CUDA {version}, as torch"
            return Toolkit(root=place.root, version=version, why=why), refused
        if place.asked:
            raise named_wrongly(place, why)
        refused.append(f"{place.root} {why}")
    return None, refused


def named_wrongly(place: Candidate, why: str) -> MachineError:
    return MachineError(
        f"{place.asked}={place.root} {why}",
        means="Extensions compiled with another CUDA than torch's fail in CMake or when loaded.",
        next=f"unset {place.asked}   # the recipe then takes NVIDIA's packages of that version",
    )


def nvcc_version(nvcc: Path) -> str:
    """``13.0.88`` of an nvcc; an empty text if it doesn't say one."""
    try:
        said = run.output([str(nvcc), "--version"]).decode(errors="replace")
    except (run.CommandFailed, OSError):
        return ""
    match = re.search(r"\bV(\d+\.\d+\.\d+)", said)
    return match[1] if match else ""


def packaged_version(requires: Iterable[str]) -> str | None:
    """The version of cuda-toolkit that torch requires, from its Requires-Dist lines."""
    for line in requires:
        match = re.match(r"cuda-toolkit\[[^\]]*\]\s*==\s*([\d.]+)", line)
        if match:
            return match[1]
    return None


def lay_out(sites: Iterable[Path], root: Path, cuda: str) -> Toolkit:
    """Give NVIDIA's packages in these site-packages the layout of a toolkit, at `root`.

    Programs are copied, since nvcc looks for everything else beside its own real path; the rest is
    linked. The linker wants unversioned names, and a libcuda that only the driver brings.
    """
    shutil.rmtree(root, ignore_errors=True)
    names = {"bin": "bin", "nvvm": "nvvm", "include": "include", "lib": "lib64"}
    for site in sites:
        packages = site / "nvidia" / f"cu{cuda.partition('.')[0]}"
        for source, target in names.items():
            lay_folder(packages / source, root / target)
    missing = [path for path in LOOKED_FOR[:-3] if not (root / path).exists()]
    if missing:
        raise MachineError(
            f"NVIDIA's packages of CUDA {cuda} lack {', '.join(missing[:3])}",
            means="They are laid out in another way than this recipe knows.",
            next="install that toolkit and name it: CUDA_HOME=DIR python build.py ...",
        )
    link_names(root / "lib64", shutil.which(os.environ.get("CC", "cc")) or "cc")
    version = nvcc_version(root / "bin" / "nvcc")
    return Toolkit(root=root, version=version, why=f"NVIDIA's packages of CUDA {version}")


def lay_out_crossed(programs: Path, libraries: Path, root: Path, compiler: str) -> None:
    """A toolkit at `root` that runs here and compiles for another machine.

    programs: this machine's toolkit or packages. libraries: the other machine's packages, whose
    headers count; nvcc's own are in `programs`. compiler: a C compiler for that machine.
    The layout is NVIDIA's: CMake looks below `targets` where it crosses, nvcc above.
    """
    shutil.rmtree(root, ignore_errors=True)
    other = root / "targets" / CROSS_TARGET
    for name in ("bin", "nvvm"):
        lay_folder(programs / name, root / name)
    for source in (libraries, programs):
        lay_folder(source / "include", other / "include")
    lay_folder(libraries / "lib", other / "lib")
    link_names(other / "lib", compiler)
    for name, link in (("include", "include"), ("lib", "lib64")):
        (root / link).symlink_to(Path("targets", CROSS_TARGET, name))
    missing = [path for path in LOOKED_FOR if not (root / path).exists()]
    if missing:
        raise MachineError(
            f"{programs} and {libraries} together lack {', '.join(missing[:3])}",
            means="They are laid out in another way than this recipe knows.",
            next="take upstream's binaries: --native none",
        )


def lay_folder(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if not path.is_dir():
            place(path, target / path.relative_to(source))


def place(path: Path, target: Path) -> None:
    if target.is_symlink() or target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.access(path, os.X_OK) and ".so" not in path.name:
        shutil.copy2(path, target)
    else:
        target.symlink_to(path)


def link_names(libraries: Path, compiler: str) -> None:
    """``libcudart.so`` beside ``libcudart.so.13``, and an empty libcuda for the linker."""
    for path in sorted(libraries.glob("*.so.*")):
        plain = libraries / (path.name.partition(".so.")[0] + ".so")
        if not plain.exists():
            plain.symlink_to(path.name)
    stubs = libraries / "stubs"
    stubs.mkdir(parents=True, exist_ok=True)
    soname = ["-Wl,-soname,libcuda.so.1", "-o", str(stubs / "libcuda.so")]
    try:
        run.output([compiler, "-shared", "-x", "c", "/dev/null", *soname])
    except (run.CommandFailed, OSError) as error:
        raise MachineError(
            f"{compiler} can't link an empty library: {error}",
            next="apt-get install g++",
        ) from None
