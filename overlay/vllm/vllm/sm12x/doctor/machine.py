# SPDX-License-Identifier: Apache-2.0
"""What `doctor` looks at: devices, versions, extensions and variables. Nothing is judged here."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import envs
from ..support.flashinfer import FlashInfer, find_flashinfer, flashinfer_v4_shapes, release_of
from ..support.gemm import CALLS_DEEP_GEMM, DeepGemm, find_deep_gemm
from .binaries import Extension, examine, find_cuobjdump
from .faults import driver
from .faults.fault import Fault
from .faults.find import Around, found
from .host_memory import HostMemory, look

PACKAGES = ("vllm", "torch", "triton", "flashinfer-python")
PREFIXES = ("VLLM_TRITON_MLA_SPARSE", "VLLM_SM12X_", "VLLM_SM120_")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU, as torch sees it. `integrated`: it has no memory but the host's (GB10)."""

    name: str
    capability: tuple[int, int]
    memory_gib: float
    integrated: bool = False


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A variable of the overlay: its value, where that comes from, and what is wrong with it."""

    name: str
    value: Any
    origin: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that was found. `versions` has None for what isn't installed, `memory` is None
    where no kernel tells.

    `flashinfer_shapes`: the (heads, window) that it decodes V4 for, where it has a table of them.
    `flashinfer_unusable`: why vLLM won't use it on this machine. `examined`: a tool was there to
    look into the extensions. `faults`: what of the installation doesn't fit together.
    """

    devices: tuple[Device, ...]
    is_cuda: bool
    driver: str | None
    memory: HostMemory | None
    versions: dict[str, str | None]
    flashinfer: FlashInfer
    flashinfer_shapes: frozenset[tuple[int, int]] | None
    flashinfer_unusable: str
    deep_gemm: DeepGemm
    extensions: tuple[Extension, ...]
    examined: bool
    knobs: tuple[Knob, ...]
    unknown_knobs: tuple[str, ...]
    faults: tuple[Fault, ...]

    @property
    def sm12x(self) -> tuple[Device, ...]:
        """The devices that the overlay is for."""
        return tuple(d for d in self.devices if self.is_cuda and d.capability[0] == 12)


def gather() -> Facts:
    """Look at this machine."""
    asked = driver.ask()
    is_cuda, devices, failure = _devices()
    if not devices and asked is not None:
        # torch is missing, broken or for the CPU; the devices are there all the same.
        is_cuda, devices = True, _told(asked)
    package = Path(__file__).parents[2]
    site = [Path(folder) for folder in sys.path if folder]
    tool = find_cuobjdump(site)
    memory, deep_gemm = look(), find_deep_gemm()
    versions = {name: installed_version(name) for name in PACKAGES}
    sm12x = [device.capability for device in devices if device.capability[0] == 12]
    around = Around(
        driver=asked.version if asked else None,
        capability=(*sm12x, None)[0],
        deep_gemm=deep_gemm.kernels and release_of(versions["vllm"] or "") >= CALLS_DEEP_GEMM,
        available=memory.available if memory else None,
        torch_failure=failure,
    )
    return Facts(
        devices=devices,
        is_cuda=is_cuda,
        driver=around.driver,
        memory=memory,
        versions=versions,
        flashinfer=find_flashinfer(),
        flashinfer_shapes=flashinfer_v4_shapes(),
        flashinfer_unusable=without_compiler(),
        deep_gemm=deep_gemm,
        extensions=examine(package, tool),
        examined=tool is not None,
        knobs=read_knobs(),
        unknown_knobs=unknown_knobs(),
        faults=found(around),
    )


def _devices() -> tuple[bool, tuple[Device, ...], str]:
    """Whether torch is built for CUDA (not ROCm), its devices, and what importing it ended with."""
    if importlib.util.find_spec("torch") is None:
        return False, (), ""
    try:
        import torch
    except Exception as problem:  # a library that isn't there is an OSError, and there are others
        return False, (), f"{type(problem).__name__}: {' '.join(str(problem).split())}"
    if not torch.cuda.is_available():
        return torch.version.cuda is not None, (), ""
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    devices = (
        Device(
            name=d.name,
            capability=(d.major, d.minor),
            memory_gib=round(d.total_memory / 2**30),
            integrated=bool(d.is_integrated),
        )
        for d in properties
    )
    return torch.version.cuda is not None, tuple(devices), ""


def _told(asked: driver.Driver) -> tuple[Device, ...]:
    """The devices as the driver tells them. One without memory of its own has the host's."""
    memory = look()
    host = memory.total / 2**20 if memory else 0
    return tuple(
        Device(
            name=card.name,
            capability=card.capability,
            memory_gib=round((card.memory_mib or host) / 1024),
            integrated=card.memory_mib is None,
        )
        for card in asked.cards
        if card.capability is not None
    )


def installed_version(package: str) -> str | None:
    """Return what a package's metadata says, None where it has none."""
    try:
        return importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, KeyError, OSError, ValueError):
        return None


def without_compiler() -> str:
    """Say that FlashInfer can't compile its kernels and has no compiled ones, or nothing.

    vLLM then takes it for absent. From v0.33 on it looks for nvcc where CUDA_HOME says, too.
    """
    if os.environ.get("VLLM_HAS_FLASHINFER_CUBIN") == "1":
        return ""
    if importlib.util.find_spec("flashinfer_cubin") is not None or shutil.which("nvcc"):
        return ""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    if any(home and shutil.which(str(Path(home, "bin", "nvcc"))) for home in homes):
        return ""
    return "vLLM uses no FlashInfer where there is neither nvcc nor flashinfer-cubin"


def read_knobs() -> tuple[Knob, ...]:
    """Read every variable of the overlay, without a warning."""
    found = []
    for variable in envs.VARIABLES + envs.CHANGED:
        reading = variable.read()
        shown = variable.shown or reading.value
        value = reading.value if reading.name and not reading.problem else shown
        origin = reading.origin.value
        if reading.origin is envs.Origin.ALIAS:
            origin = f"{origin} {reading.name}"
        found.append(Knob(name=variable.name, value=value, origin=origin, problem=reading.problem))
    return tuple(found)


def unknown_knobs() -> tuple[str, ...]:
    """Return what is set and looks like one of the overlay's variables, but isn't."""
    known = {name for v in envs.VARIABLES + envs.CHANGED for name in (v.name, *v.aliases)}
    return tuple(sorted(n for n in os.environ if n.startswith(PREFIXES) and n not in known))
