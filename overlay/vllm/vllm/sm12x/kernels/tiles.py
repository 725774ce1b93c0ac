# SPDX-License-Identifier: Apache-2.0
"""Which tile, how many warps and how many splits a call gets: one table and pure functions.

All follows from shapes and from facts of the device, never from what tensors hold, so a captured
graph replays with any contents. `benchmarks/kernel_report.py` compiles every entry of the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

import torch

from .. import envs


class Kernel(str, Enum):
    """The attention kernels."""

    DECODE_V4 = "decode V4"
    DECODE_V32 = "decode V3.2"
    PREFILL = "prefill, 512 wide"
    PREFILL_ROPE = "prefill, 576 wide"


class Family(str, Enum):
    """Devices that share a row of the table."""

    SM120 = "sm_120"  # RTX PRO 6000, RTX 5090: GDDR7, many SMs
    SM121 = "sm_121"  # GB10: unified LPDDR5X, 48 SMs


@dataclass(frozen=True, kw_only=True)
class Tile:
    """What a program works on at a time, and with what.

    Two tiles of packed bytes (three stages), one of bfloat16 operands and the queries have to fit
    into 99 KiB; that keeps 576-wide queries at 16 heads. A dot's warps lie side by side along its
    columns, so a program has at most block_entries / 8 of them: more would do the same work twice.
    `ctas_per_sm` is how many programs fit at once. `entry_cycles` is what an entry takes at least:
    the floor of its kernel's machine code, the worst of the compilers that releases come with, as
    `benchmarks/kernel_budget.json` has it; a test holds the two together.
    """

    block_heads: int
    block_entries: int
    warps: int
    stages: int
    entry_cycles: int
    ctas_per_sm: int = 1


@dataclass(frozen=True, kw_only=True)
class Device:
    """The facts about a device that choices depend on."""

    family: Family
    sms: int
    l2_bytes: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the user sets. None leaves a choice to the table and to `cycles`.

    `head_block` picks the tile as if a rank had so many heads. `entries` is how many a program
    takes at most. `rows` are at most in one pass with splits, whose workspace that bounds.
    """

    head_block: int | None = None
    entries: int | None = None
    rows: int = 256


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A launch: grid (rows * head_blocks, splits)."""

    tile: Tile
    head_blocks: int
    splits: int


AUTOMATIC = Limits()

NARROW = Tile(block_heads=16, block_entries=32, warps=4, stages=3, entry_cycles=61)
WIDE = Tile(block_heads=32, block_entries=32, warps=4, stages=3, entry_cycles=101)
NARROW_V32 = replace(NARROW, entry_cycles=67)
# Queries of 576 numbers leave room for one tile of keys.
WIDE_ROPE = replace(WIDE, stages=2)

# Tiles by heads a rank has at most; the last entry serves all above it. Prefill isn't split, so
# nothing asks what its entries take.
TABLE: dict[tuple[Kernel, Family], dict[int, Tile]] = {
    (kernel, family): tiles
    for family in Family
    for kernel, tiles in (
        (Kernel.DECODE_V4, {16: NARROW, 32: WIDE}),
        (Kernel.DECODE_V32, {16: NARROW_V32}),
        (Kernel.PREFILL, {16: NARROW, 32: WIDE}),
        (Kernel.PREFILL_ROPE, {16: NARROW, 32: WIDE_ROPE}),
    )
}

UNSPLIT = (Kernel.PREFILL, Kernel.PREFILL_ROPE)

# Bytes an entry, and bytes of memory an SM gets a cycle: GB10 at 273 GB/s, RTX PRO 6000 at 1792.
ENTRY_BYTES = {Kernel.DECODE_V4: 584, Kernel.DECODE_V32: 656}
BYTES_PER_CYCLE = {Family.SM120: 3.7, Family.SM121: 2.4}
# Before a program's first tile and after its last: queries, first copies, the output.
START_CYCLES = 3000
# A second launch in a captured graph.
MERGE_CYCLES = 5000
# A split's float32 output and LSE of one row and head, and what all of a call may take: vLLM's
# memory profile doesn't see it.
PARTIAL_BYTES = 512 * 4 + 4
WORKSPACE_BYTES = 128 << 20
# One query row alone is the latency everybody waits for.
MAX_ENTRIES_ALONE = 128


def choose_tile(kernel: Kernel, family: Family, heads: int) -> Tile:
    """Return the table's tile for so many heads."""
    tiles = TABLE[kernel, family]
    return next((tile for limit, tile in tiles.items() if heads <= limit), tiles[max(tiles)])


def plan(
    kernel: Kernel,
    device: Device,
    *,
    rows: int,
    heads: int,
    widths: Sequence[int],
    batch_invariant: bool = False,
    limits: Limits = AUTOMATIC,
) -> Plan:
    """Return how to launch `kernel` on query rows with at most `widths` entries in their scopes.

    Splits are those that are soonest done by `cycles`; a row alone is split into at most
    MAX_ENTRIES_ALONE entries. With `batch_invariant` a row isn't split, whatever is beside it.
    """
    return _plan(kernel, device, rows, heads, tuple(widths), batch_invariant, limits)


@lru_cache(maxsize=4096)  # a search through hundreds of splits, for each layer of each step
def _plan(
    kernel: Kernel,
    device: Device,
    rows: int,
    heads: int,
    widths: tuple[int, ...],
    batch_invariant: bool,
    limits: Limits,
) -> Plan:
    tile = choose_tile(kernel, device.family, limits.head_block or heads)
    head_blocks = -(-heads // tile.block_heads)
    if batch_invariant or kernel in UNSPLIT:
        return Plan(tile=tile, head_blocks=head_blocks, splits=1)
    tiles = sum(-(-width // tile.block_entries) for width in widths)
    alone = -(-tiles * tile.block_entries // MAX_ENTRIES_ALONE)
    if rows > limits.rows and limits.entries is None:
        # Passes of two launches each would take longer than a row that isn't split.
        return Plan(tile=tile, head_blocks=head_blocks, splits=1)
    if limits.entries is not None:
        each = -(-limits.entries // tile.block_entries)
        # However few entries are asked for: vLLM's memory profile doesn't see the workspace.
        most = WORKSPACE_BYTES // (min(rows, limits.rows) * heads * PARTIAL_BYTES)
        splits = max(1, min(-(-tiles // each), most))
        return Plan(tile=tile, head_blocks=head_blocks, splits=splits)
    least = max(1, alone if rows == 1 else 1)
    plans = [
        Plan(tile=tile, head_blocks=head_blocks, splits=splits)
        for splits in range(least, max(least, tiles) + 1)
        if splits == least or rows * heads * splits * PARTIAL_BYTES <= WORKSPACE_BYTES
    ]
    return min(plans, key=lambda p: cycles(p, kernel, device, rows=rows, tiles=tiles))


def cycles(plan: Plan, kernel: Kernel, device: Device, *, rows: int, tiles: int) -> float:
    """Estimate a decode: the turns that SMs take, or memory if it is slower, and the merge."""
    tile = plan.tile
    programs = rows * plan.head_blocks * plan.splits
    turns = -(-programs // (device.sms * tile.ctas_per_sm))
    work = -(-tiles // plan.splits) * tile.block_entries * tile.entry_cycles
    moved = rows * tiles * tile.block_entries * ENTRY_BYTES[kernel]
    if plan.splits > 1:
        # Each program's float32 outputs, written and read. What fits into L2 stays there.
        written = programs * tile.block_heads * 512 * 4
        moved += 2 * written if written > device.l2_bytes / 2 else written // 2
    memory = moved / (BYTES_PER_CYCLE[device.family] * device.sms)
    return max(turns * (work + START_CYCLES), memory) + (MERGE_CYCLES if plan.splits > 1 else 0)


def read_limits() -> Limits:
    """Return what the environment asks for."""
    return Limits(
        head_block=envs.get("VLLM_TRITON_MLA_SPARSE_HEAD_BLOCK_SIZE"),
        entries=envs.get("VLLM_TRITON_MLA_SPARSE_TOPK_CHUNK_SIZE"),
        rows=envs.get("VLLM_TRITON_MLA_SPARSE_QUERY_CHUNK_SIZE"),
    )


@lru_cache
def describe_device(device: torch.device) -> Device:
    """Return the facts of a CUDA device; for Triton's interpreter on a CPU, those of a GB10."""
    if device.type != "cuda":
        return Device(family=Family.SM121, sms=48, l2_bytes=24 << 20)
    properties = torch.cuda.get_device_properties(device)
    family = Family.SM121 if (properties.major, properties.minor) == (12, 1) else Family.SM120
    return Device(
        family=family, sms=properties.multi_processor_count, l2_bytes=properties.L2_cache_size
    )
