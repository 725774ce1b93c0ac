# SPDX-License-Identifier: Apache-2.0
"""What `selftest` asks of a case, and what cases make their inputs with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from .verdicts import Verdict

# The references take a row at a time, so no more of them are compared.
CHECKED_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A case with its inputs on a device: what is timed, and what is checked.

    `moved_bytes`: what a call has to read and write at least, each once. `operations`:
    multiplications and additions of its products.
    """

    run: Callable[[], object]
    check: Callable[[], Verdict]
    moved_bytes: int
    operations: int


class Runnable(Protocol):
    """A call of an operator that models make; as a string, what a person reads."""

    def trial(self, device: torch.device) -> Trial:
        """Make the inputs, the same for every device."""


def sample(rows: int) -> list[int]:
    """Return the rows that are compared: the first and the last, and some between."""
    count = min(rows, CHECKED_ROWS)
    return [i * (rows - 1) // max(count - 1, 1) for i in range(count)]


def fp8_noise(*size: int, generator: torch.Generator) -> torch.Tensor:
    """Return normally distributed e4m3 values on the CPU."""
    return torch.randn(size, generator=generator).to(torch.float8_e4m3fn)


def pick_fp8(values: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """Return some rows, as bytes on the way: not every torch indexes e4m3 on every device."""
    return values.view(torch.uint8)[rows].view(values.dtype)


def bytes_of(*tensors: torch.Tensor) -> int:
    """Return the bytes of all elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
