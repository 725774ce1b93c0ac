# SPDX-License-Identifier: Apache-2.0
"""Machine code of a compiled kernel, read with cuobjdump: what one turn of its hot loop costs.

No GPU is needed. Counts are per warp: an instruction of a warp is one issue slot of its scheduler,
and an SM has four schedulers.

Beside each instruction the compiler writes when its warp may issue the next: a stall count, a hint
to yield, and barriers that loads and the like set and later instructions wait for. NVIDIA documents
none of it. What bears the reading out: matrix instructions that have nothing else between them
stand 16 apart, which tests look at, and no barrier is waited for that nothing sets.
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
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

SCHEDULERS = 4
LINE = re.compile(
    r"\s*/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<op>[A-Z][\w.]*)\s*(?P<rest>[^;]*);"
)
# The second word of an instruction stands alone on the line after it.
CONTROL = re.compile(r"\s*/\* 0x(?P<word>[0-9a-f]{16}) \*/\s*$")
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
# Cycles that a scheduler's tensor core takes for one of them; an RTX 5090's takes twice as long
# where sums are float32.
MMA_CYCLES = 16
NO_BARRIER = 7
GLOBAL_LOADS = ("LDG", "LDGSTS")
LOCAL = ("LDL", "STL")


class ToolError(Exception):
    """A tool isn't here, or can't read this code."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction: its address, its name with all suffixes, its operands, its control word.

    `stall`: cycles until its warp may issue again. `yields`: whether another warp should go next.
    `sets`: barriers that it sets, for its result or for having read its operands. `waits`: those it
    waits for.
    """

    address: int
    name: str
    operands: str
    stall: int = 0
    yields: bool = False
    sets: frozenset[int] = frozenset()
    waits: frozenset[int] = frozenset()

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


class Work(StrEnum):
    """What a stretch of an attention loop is for."""

    LOAD = "dequantise"
    QK = "QK"
    SOFTMAX = "softmax"
    PV = "PV"


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What lies between two barriers of all warps, which do it at the same time."""

    work: Work
    stalls: int
    products: int


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
    def stalls(self) -> int:
        """The least cycles that a warp needs for a turn, if nothing keeps it waiting."""
        return sum(instruction.stall for instruction in self.code)

    @property
    def tensor(self) -> int:
        """Cycles of a scheduler's tensor core for a warp's turn."""
        return MMA_CYCLES * self.count(*MMA)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The loop cut at its barriers. Products before the powers are QK's, those after PV's."""
        parts: list[list[Instruction]] = [[]]
        for instruction in self.code:
            parts[-1].append(instruction)
            if instruction.kind == "BAR":
                parts.append([])
        counts = [sum(i.kind in MMA for i in part) for part in parts]
        powers = [i for i, part in enumerate(parts) if any("EX2" in one.name for one in part)]
        first = next((i for i, count in enumerate(counts) if count), len(parts))
        middle = powers[-1] if powers else len(parts)
        found = []
        for i, (part, count) in enumerate(zip(parts, counts, strict=True)):
            if count:
                work = Work.QK if i <= middle and i != len(parts) - 1 else Work.PV
            elif i < first:
                work = Work.LOAD
            else:
                work = Work.SOFTMAX if i <= middle or any(counts[i:]) else Work.PV
            stalls = sum(instruction.stall for instruction in part)
            found.append(Phase(work=work, stalls=stalls, products=count))
        return tuple(found)

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
        return max(self.loops, key=lambda loop: (loop.stalls, len(loop.code)))


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
    """The instructions of a listing as `cuobjdump -sass` prints it, with their control words."""
    instructions: list[Instruction] = []
    for line in listing.splitlines():
        if m := LINE.match(line):
            address = int(m["address"], 16)
            instructions.append(Instruction(address=address, name=m["op"], operands=m["rest"]))
        elif instructions and (m := CONTROL.match(line)):
            instructions[-1] = _controlled(instructions[-1], int(m["word"], 16))
    check_control(instructions)
    return instructions


def _controlled(instruction: Instruction, word: int) -> Instruction:
    sets = {word >> shift & 7 for shift in (46, 49)} - {NO_BARRIER}
    return replace(
        instruction,
        stall=word >> 41 & 15,
        yields=not word >> 45 & 1,
        sets=frozenset(sets),
        waits=frozenset(i for i in range(6) if word >> 52 + i & 1),
    )


def check_control(code: Sequence[Instruction]) -> None:
    """Raise ToolError where control words can't mean what this module takes them for."""
    for instruction in code:
        # Only what takes an unknown time may set a barrier, and there are six.
        if any(barrier > 5 for barrier in instruction.sets):
            raise ToolError(f"no barrier has such a number: {instruction}")
    set_ = frozenset().union(*(instruction.sets for instruction in code))
    waited = frozenset().union(*(instruction.waits for instruction in code))
    if waited - set_:
        raise ToolError(f"barriers {sorted(waited - set_)} are waited for and never set")


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


def tools() -> Iterator[Path]:
    """The files of what reads machine code: cuobjdump has nvdisasm list it."""
    cuobjdump = Path(_cuobjdump()).resolve()
    yield cuobjdump
    beside = cuobjdump.with_name("nvdisasm")
    named = str(beside) if beside.exists() else shutil.which("nvdisasm")
    if named:
        yield Path(named).resolve()


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
