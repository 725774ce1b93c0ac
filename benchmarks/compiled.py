# SPDX-License-Identifier: Apache-2.0
"""Compile a Triton kernel ahead of time, for a GPU that isn't here, as the JIT would for a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks import sass

WARP = 32


class Family(StrEnum):
    """What a kernel is for, and so which goals it has."""

    ATTENTION = "attention"
    LOGITS = "logits"
    EINSUM = "einsum"
    PRENORM = "prenorm"


@dataclass(frozen=True, kw_only=True)
class Build:
    """A kernel with the types and values of one call, and what its hot loop is for.

    `pointers` gives element types of tensor arguments, None for an argument that isn't there;
    `numbers` other arguments: a float, or an int, which is specialised as the JIT does (1 is
    folded, multiples of 16 are known to be). What is a constexpr is in `constants`. One turn of
    the loop handles `entries` of `entry_bytes`, with `heads` useful heads and `width` numbers of
    key plus value. A logits kernel scores `queries` queries of these heads at a turn.
    """

    label: str
    kernel: Any
    pointers: Mapping[str, str | None]
    numbers: Mapping[str, float] = field(default_factory=dict)
    constants: Mapping[str, Any]
    warps: int
    stages: int
    entries: int
    entry_bytes: int
    heads: int
    width: int
    family: Family = Family.ATTENTION
    queries: int = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the machine code of a build says.

    `mma_ratio`: matrix operations done over useful ones. `wide`: the share of the entries' bytes
    that 16-byte loads can have fetched. `narrow`: other loads from global memory a thread and turn,
    those of indices and scales. `cycles`: issue
    cycles of an SM an entry, query and block of heads. `fp8` and `tf32`: matrix instructions of
    these kinds.
    """

    registers: int
    stack: int
    shared: int
    mma_ratio: float
    wide: float
    narrow: int
    copies: int
    barriers: int
    spilled: int
    cycles: float
    fp8: int
    tf32: int


def measure(build: Build, capability: int) -> Measured:
    """Compile `build` for sm_<capability> and read its machine code."""
    compiled = triton.compile(
        _source(build),
        target=GPUTarget("cuda", capability, WARP),
        options={"num_warps": build.warps, "num_stages": build.stages},
    )
    code = sass.read_code(compiled.asm["cubin"])
    loop = code.hot
    useful = 2 * build.heads * build.width * build.entries * build.queries
    loads = loop.loads
    wide = 16 * loads[16] * build.warps * WARP / (build.entries * build.entry_bytes)
    return Measured(
        registers=code.registers,
        stack=code.stack,
        shared=compiled.metadata.shared,
        mma_ratio=loop.flop * build.warps / useful,
        wide=min(wide, 1.0),
        narrow=sum(loads.values()) - loads[16],
        copies=loop.count("LDGSTS"),
        barriers=loop.count("BAR"),
        spilled=loop.count(*sass.LOCAL),
        cycles=len(loop.code) * build.warps / sass.SCHEDULERS / build.entries / build.queries,
        fp8=loop.count("QMMA"),
        tf32=sum("TF32" in instruction.name for instruction in loop.code),
    )


def _source(build: Build) -> ASTSource:
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for place, parameter in enumerate(build.kernel.params):
        name = parameter.name
        value = build.constants.get(name, build.numbers.get(name))
        pointer = build.pointers.get(name)
        if pointer:
            signature[name] = f"*{pointer}"
        elif (
            name in build.constants
            or name in build.pointers
            or (value == 1 and not parameter.do_not_specialize)
        ):
            signature[name] = "constexpr"
            constants[name] = value
            continue
        elif isinstance(value, float):
            signature[name] = "fp32"
            continue
        elif isinstance(value, int):
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
        else:
            raise ValueError(f"{build.label}: nothing is said about the argument {name}")
        aligned = not parameter.do_not_specialize_on_alignment
        if aligned if pointer else value % 16 == 0 and not parameter.do_not_specialize:
            attributes[place,] = [["tt.divisibility", 16]]
    return ASTSource(build.kernel, signature, constants, attributes)
