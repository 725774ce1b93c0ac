# SPDX-License-Identifier: Apache-2.0
"""Machine code of a compiled kernel, read with cuobjdump: what one turn of its hot loop costs.

No GPU is needed. Counts are per warp: an instruction of a warp is one issue slot of its scheduler,
and an SM has four schedulers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SCHEDULERS = 4
LINE = re.compile(
    r"\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<op>[A-Z][\w.]*)\s*(?P<rest>[^;]*);"
)
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
TARGET = re.compile(r"0x([0-9a-f]+)")
# m, n, k of a matrix instruction, by the digits in its name.
MMA_SHAPES = {
    "1688": (16, 8, 8),
    "16816": (16, 8, 16),
    "16832": (16, 8, 32),
    "16864": (16, 8, 64),
}
MMA = ("HMMA", "QMMA", "IMMA", "OMMA")
GLOBAL_LOADS = ("LDG", "LDGSTS")
LOCAL = ("LDL", "STL")


class ToolError(Exception):
    """A tool isn't here, or can't read this code."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction: its address, its name with all suffixes, and its operands."""

    address: int
    name: str
    operands: str

    @property
    def kind(self) -> str:
        return self.name.partition(".")[0]

    @property
    def bytes(self) -> int:
        """Bytes a thread that a memory access moves."""
        suffixes = self.name.split(".")
        for text, size in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
            if text in suffixes:
                return size
        return 4

    @property
    def flop(self) -> int:
        """Floating-point operations of a matrix instruction."""
        if self.kind not in MMA:
            return 0
        shape = next((MMA_SHAPES[s] for s in self.name.split(".") if s in MMA_SHAPES), None)
        if shape is None:
            raise ToolError(f"a matrix instruction of unknown shape: {self.name}")
        m, n, k = shape
        return 2 * m * n * k


@dataclass(frozen=True, kw_only=True)
class Loop:
    """The instructions from a backward branch's target to the branch."""

    code: tuple[Instruction, ...]

    def count(self, *kinds: str) -> int:
        return sum(instruction.kind in kinds for instruction in self.code)

    @property
    def flop(self) -> int:
        return sum(instruction.flop for instruction in self.code)

    @property
    def loads(self) -> Counter[int]:
        """Loads from global memory by their bytes a thread."""
        return Counter(i.bytes for i in self.code if i.kind in GLOBAL_LOADS)


@dataclass(frozen=True, kw_only=True)
class Code:
    """A kernel's resources and its innermost loops that hold matrix instructions."""

    registers: int
    stack: int
    loops: tuple[Loop, ...]

    @property
    def hot(self) -> Loop:
        """The most expensive of the loops; a kernel over two scopes has two."""
        if not self.loops:
            raise ToolError("no loop with matrix instructions in this kernel")
        return max(self.loops, key=lambda loop: len(loop.code))


def read_code(cubin: bytes) -> Code:
    """Disassemble a cubin. ToolError if no cuobjdump here can."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = USAGE.search(_run("-res-usage", path))
        instructions = parse(_run("-sass", path))
    if usage is None or not instructions:
        raise ToolError(
            f"{_cuobjdump()} can't read this code; install nvidia-cuda-cuobjdump and "
            "nvidia-cuda-nvdisasm 13, or name another in CUOBJDUMP"
        )
    registers, stack, _, _ = map(int, usage.groups())
    loops = tuple(loop for loop in innermost_loops(instructions) if loop.flop)
    return Code(registers=registers, stack=stack, loops=loops)


def parse(listing: str) -> list[Instruction]:
    """The instructions of a listing as `cuobjdump -sass` prints it."""
    found = (LINE.match(line) for line in listing.splitlines())
    return [
        Instruction(address=int(m["address"], 16), name=m["op"], operands=m["rest"])
        for m in found
        if m
    ]


def innermost_loops(code: Sequence[Instruction]) -> Iterator[Loop]:
    """Every loop that has none within, but for the branch to itself that ends a kernel."""
    place = {instruction.address: i for i, instruction in enumerate(code)}
    spans = []
    for end, instruction in enumerate(code):
        target = TARGET.search(instruction.operands) if instruction.kind == "BRA" else None
        start = place.get(int(target[1], 16)) if target else None
        if start is not None and start < end:
            spans.append((start, end))
    for start, end in spans:
        if not any((s, e) != (start, end) and start <= s and e <= end for s, e in spans):
            yield Loop(code=tuple(code[start : end + 1]))


def _run(option: str, path: Path) -> str:
    done = subprocess.run([_cuobjdump(), option, str(path)], capture_output=True, text=True)
    return done.stdout + done.stderr


@lru_cache
def _cuobjdump() -> str:
    """One of a 13.x toolkit if there is any: the one in Triton 3.6 prints no sm_121 code."""
    named = os.environ.get("CUOBJDUMP")
    packaged = [Path(p, "nvidia", "cu13", "bin", "cuobjdump") for p in sys.path]
    candidates = [named, *(str(p) for p in packaged if p.exists()), shutil.which("cuobjdump")]
    found = next((candidate for candidate in candidates if candidate), None)
    if found is None:
        raise ToolError(
            "cuobjdump is not here; install nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm"
        )
    return found
