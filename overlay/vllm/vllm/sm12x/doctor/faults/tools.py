# SPDX-License-Identifier: Apache-2.0
"""What kernels are compiled with when they run: Triton's assembler, a C compiler, nvcc."""

import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from .fault import Fault, Kind

TIMEOUT_SECONDS = 30
# The first CUDA whose assembler knows a device.
KNOWS = {(12, 0): (12, 8), (12, 1): (12, 9)}
# What nvcc compiles for is C++17, which GCC has whole since then; the recipe asks for the same.
OLDEST_GCC = 10
# What a compiler is taken to need; the largest of Marlin's needed 2.9 GiB (docs/decisions.md).
JOB_GIB = 3
# The only one that Triton reads for these devices; what it names and doesn't run is passed over.
PTXAS = "TRITON_PTXAS_BLACKWELL_PATH"
_RELEASE = re.compile(r"release (\d+)\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Versions as numbers, None for what isn't there or doesn't say one.

    `ptxas_from`: the file that Triton would run. `headers`: those of Python are there.
    `jobs`: compilers that FlashInfer starts at once. `compiled`: FlashInfer's kernels are there
    compiled, by flashinfer-jit-cache.
    """

    compiler: str | None
    gcc: int | None
    headers: bool
    ptxas: tuple[int, int] | None
    ptxas_from: str | None
    nvcc: tuple[int, int] | None
    nvcc_from: str | None
    jobs: int
    compiled: bool


def look() -> Tools:
    """Look at this machine. Only tools are run, and only to say their version."""
    compiler = find_compiler()
    assembler, nvcc = find_ptxas(), find_nvcc()
    return Tools(
        compiler=compiler,
        gcc=_gcc(compiler) if compiler else None,
        headers=Path(sysconfig.get_path("include"), "Python.h").is_file(),
        ptxas=assembler[1] if assembler else None,
        ptxas_from=assembler[0] if assembler else None,
        nvcc=_release(nvcc) if nvcc else None,
        nvcc_from=nvcc,
        jobs=jobs(),
        compiled=find_spec("flashinfer_jit_cache") is not None,
    )


def find_compiler() -> str | None:
    """Return the C compiler as Triton looks for it: CC, then gcc and clang."""
    named = os.environ.get("CC", "").split()
    return shutil.which(named[0]) if named else shutil.which("gcc") or shutil.which("clang")


def find_ptxas() -> tuple[str, tuple[int, int] | None] | None:
    """Return the assembler that Triton would run for these devices, and the CUDA it is of.

    None without Triton; no CUDA where Triton has one that doesn't run.
    """
    spec = find_spec("triton")
    if spec is None or not spec.origin:
        return None
    own = str(Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "ptxas-blackwell")
    for tool in filter(None, (os.environ.get(PTXAS), own)):
        release = _release(tool)
        if release is not None:
            return tool, release
    return own, None


def find_nvcc() -> str | None:
    """Return nvcc as FlashInfer and DeepGEMM find it."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(name):
            return shutil.which(str(Path(os.environ[name], "bin", "nvcc")))
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def jobs() -> int:
    """Return how many compilers FlashInfer starts at once: MAX_JOBS, else as Ninja does."""
    said = os.environ.get("MAX_JOBS", "")
    return int(said) if said.isdigit() and int(said) else (os.cpu_count() or 1) + 2


def fitting_jobs(available: int) -> int:
    """Return how many compilers `available` bytes hold, at least one."""
    return max(1, available // (JOB_GIB << 30))


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _release(tool: str) -> tuple[int, int] | None:
    found = _RELEASE.search(_said(tool, "--version"))
    return (int(found[1]), int(found[2])) if found else None


def _gcc(compiler: str) -> int | None:
    if "Free Software Foundation" not in _said(compiler, "--version"):
        return None
    found = re.match(r"\d+", _said(compiler, "-dumpversion"))
    return int(found[0]) if found else None


def judge(
    tools: Tools,
    *,
    cuda: str | None,
    capability: tuple[int, int] | None,
    deep_gemm: bool,
    available: int | None,
) -> list[Fault]:
    """Judge the tools. `cuda`: torch's. `deep_gemm`: models here go through DeepGEMM.

    `available`: bytes of memory that a compiler can have, None if unknown.
    """
    found = [_host(tools)] if tools.compiler is None or not tools.headers else []
    wanted = KNOWS.get(capability or (12, 0), KNOWS[12, 0])
    found += _assembler(tools, wanted)
    found += _nvcc(tools, cuda, wanted, deep_gemm)
    if tools.nvcc and tools.gcc is not None and tools.gcc < OLDEST_GCC:
        found.append(
            Fault(
                kind=Kind.NVCC,
                what=f"{tools.compiler} is GCC {tools.gcc}",
                means=f"FlashInfer and DeepGEMM compile C++17, which GCC has from {OLDEST_GCC} on",
                next="apt-get install g++   # as root, or export CC=... CXX=... for a newer one",
                stops=False,
            )
        )
    fit = fitting_jobs(available) if available is not None else tools.jobs
    if tools.nvcc and not tools.compiled and tools.jobs > fit:
        found.append(
            Fault(
                kind=Kind.JOBS,
                what=f"FlashInfer would start {tools.jobs} compilers at once",
                means=f"at {JOB_GIB} GiB each that is more than memory holds, and the system ends "
                "the server",
                next=f"export MAX_JOBS={fit}",
                stops=False,
            )
        )
    return found


def _host(tools: Tools) -> Fault:
    what = "no C compiler is found" if tools.compiler is None else "Python's headers aren't here"
    return Fault(
        kind=Kind.COMPILER,
        what=what,
        means="Triton compiles a small C file before it starts its first kernel",
        next="apt-get install gcc python3-dev   # as root, or those of another Python",
        stops=True,
    )


def _assembler(tools: Tools, wanted: tuple[int, int]) -> list[Fault]:
    if tools.ptxas_from is None or (tools.ptxas is not None and tools.ptxas >= wanted):
        return []
    named = os.environ.get(PTXAS) == tools.ptxas_from
    what = (
        f"{tools.ptxas_from} is of CUDA {tools.ptxas[0]}.{tools.ptxas[1]}"
        if tools.ptxas
        else f"{tools.ptxas_from}, which Triton would run, doesn't run"
    )
    return [
        Fault(
            kind=Kind.PTXAS,
            what=what,
            means=f"it knows no such device before {wanted[0]}.{wanted[1]}, so no Triton kernel "
            "can be made",
            next=f"unset {PTXAS}   # Triton has its own" if named
            else "python -m pip install --force-reinstall --no-deps triton   # torch's version",
            stops=True,
        )
    ]  # fmt: skip


def _nvcc(tools: Tools, cuda: str | None, wanted: tuple[int, int], deep_gemm: bool) -> list[Fault]:
    major = cuda.split(".")[0] if cuda else "13"
    get = f"apt-get install cuda-toolkit-{major}   # as root, from NVIDIA's archive"
    if tools.nvcc is None:
        if not deep_gemm:
            return []
        return [
            Fault(
                kind=Kind.NVCC,
                what="nvcc isn't found" if tools.nvcc_from is None
                else f"{tools.nvcc_from} doesn't say a version",
                means="DeepGEMM compiles its kernels when they first run, so DeepSeek V4, V3.2 "
                "and GLM-5.x end with an error there; other models don't need it",
                next=f"{get}; export CUDA_HOME=/usr/local/cuda",
                stops=False,
            )
        ]  # fmt: skip
    old = tools.nvcc < wanted
    other = cuda is not None and str(tools.nvcc[0]) != major
    if not (old or other):
        return []
    version = f"{tools.nvcc[0]}.{tools.nvcc[1]}"
    means = (
        f"it knows no such device before {wanted[0]}.{wanted[1]}"
        if old
        else f"torch is built for CUDA {cuda}, and what it compiles needs libraries of {version}"
    )
    return [
        Fault(
            kind=Kind.NVCC,
            what=f"{tools.nvcc_from} is of CUDA {version}",
            means=f"{means}: FlashInfer's and DeepGEMM's kernels can't be compiled when they run",
            next=f"{get}; export CUDA_HOME=/usr/local/cuda-{major}",
            stops=False,
        )
    ]  # fmt: skip
