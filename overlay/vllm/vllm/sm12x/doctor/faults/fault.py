# SPDX-License-Identifier: Apache-2.0
"""One thing that is wrong with an installation."""

from dataclasses import dataclass
from enum import Enum


class Kind(str, Enum):
    """What a fault is about."""

    DUPLICATE = "the same package twice"
    MISSING = "a package that isn't installed"
    VERSION = "a package of another version"
    FLASHINFER = "parts of FlashInfer that don't fit together"
    TORCH_CPU = "a torch without CUDA"
    TORCH_CUDA = "a torch for another CUDA"
    TORCH_BROKEN = "a torch that can't be imported"
    LIBRARY = "a shared library that isn't there"
    SYMBOLS = "an extension that can't be loaded"
    DRIVER = "a driver that is too old"
    COMPILER = "no compiler for what Triton starts kernels with"
    PTXAS = "an assembler that doesn't know the device"
    NVCC = "no fitting nvcc"
    JOBS = "more compilers at once than memory holds"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What was found, what follows from it, and what to type. `stops`: nothing can be served."""

    kind: Kind
    what: str
    means: str
    next: str
    stops: bool

    def __str__(self) -> str:
        """The fault as one line."""
        return f"{self.what}: {self.means}. Type: {self.next}"
