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
# An SM of SM12x: registers, shared memory and what each program's share costs of it, warps.
REGISTERS, SHARED, RESERVED, WARPS = 1 << 16, 100 << 10, 1 << 10, 48


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
    these kinds. `local`: instructions of any loop that touch local memory.

    `tensor`: cycles of a scheduler's tensor core an entry and query. `stalls`: the compiler's own
    stall counts of a warp's turn, over its entries and queries. `programs`: how many fit on an SM.
    `floor`: the least cycles of an SM an entry and query, the largest of `cycles`, `tensor` and
    `stalls` shared among `programs`; waiting for memory comes on top. `phases`: cycles of `stalls`
    by what they are for.
    """

    registers: int
    stack: int
    shared: int
    mma_ratio: float
    wide: float
    narrow: int
    copies: int
    barriers: int
    cycles: float
    fp8: int
    tf32: int
    local: int
    tensor: float
    stalls: float
    programs: int
    floor: float
    phases: Mapping[str, float]


def measure(build: Build, capability: int) -> Measured:
    """Compile `build` for sm_<capability> and read its machine code."""
    compiled = triton.compile(
        _source(build),
        target=GPUTarget("cuda", capability, WARP),
        options={"num_warps": build.warps, "num_stages": build.stages},
    )
    return _measured(build, sass.read_code(compiled.asm["cubin"]), compiled.metadata.shared)


def _measured(build: Build, code: sass.Code, shared: int) -> Measured:
    loop = code.hot
    turn = build.entries * build.queries
    useful = 2 * build.heads * build.width * turn
    loads = loop.loads
    wide = 16 * loads[16] * build.warps * WARP / (build.entries * build.entry_bytes)
    # Warps of a program that share a scheduler.
    warps = build.warps / sass.SCHEDULERS
    cycles, tensor = len(loop.code) * warps / turn, loop.tensor * warps / turn
    stalls = loop.stalls / turn
    programs = programs_per_sm(code.registers, shared, build.warps)
    phases = dict.fromkeys(sass.Work, 0.0)
    for phase in loop.phases:
        phases[phase.work] += phase.stalls / turn
    return Measured(
        registers=code.registers,
        stack=code.stack,
        shared=shared,
        mma_ratio=loop.flop * build.warps / useful,
        wide=min(wide, 1.0),
        narrow=sum(loads.values()) - loads[16],
        copies=loop.count("LDGSTS"),
        barriers=loop.count("BAR"),
        cycles=cycles,
        fp8=loop.count("QMMA"),
        tf32=sum("TF32" in instruction.name for instruction in loop.code),
        local=max(one.count(*sass.LOCAL) for one in code.loops),
        tensor=tensor,
        stalls=stalls,
        programs=programs,
        floor=max(cycles, tensor, stalls / programs),
        phases={work.value: round(cycles, 1) for work, cycles in phases.items()},
    )


def programs_per_sm(registers: int, shared: int, warps: int) -> int:
    """How many programs an SM holds: 64 Ki registers, 100 KiB less 1 each, 48 warps."""
    by_registers = REGISTERS // (-(-registers * WARP // 256) * 256 * warps)
    by_shared = SHARED // (shared + RESERVED)
    return max(1, min(by_registers, by_shared, WARPS // warps))


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
