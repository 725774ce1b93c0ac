# SPDX-License-Identifier: Apache-2.0
"""Which tile, how many warps and how many splits a call gets: one table and pure functions.

All follows from shapes and from facts of the device, never from what tensors hold, so a captured
graph replays with any contents. `benchmarks/kernel_report.py` compiles every entry of the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import torch


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
    `ctas_per_sm` is how many programs fit at once.
    """

    block_heads: int
    block_entries: int
    warps: int
    stages: int
    ctas_per_sm: int = 1


@dataclass(frozen=True, kw_only=True)
class Device:
    """The facts about a device that choices depend on."""

    family: Family
    sms: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A launch: grid (rows * head_blocks, splits)."""

    tile: Tile
    head_blocks: int
    splits: int


NARROW = Tile(block_heads=16, block_entries=32, warps=4, stages=3)
WIDE = Tile(block_heads=32, block_entries=32, warps=4, stages=3)

# Tiles by heads a rank has at most; the last entry serves all above it.
TABLE: dict[tuple[Kernel, Family], dict[int, Tile]] = {
    (Kernel.DECODE_V4, Family.SM120): {16: NARROW, 32: WIDE},
    (Kernel.DECODE_V4, Family.SM121): {16: NARROW, 32: WIDE},
    (Kernel.DECODE_V32, Family.SM120): {16: NARROW},
    (Kernel.DECODE_V32, Family.SM121): {16: NARROW},
    (Kernel.PREFILL, Family.SM120): {16: NARROW, 32: WIDE},
    (Kernel.PREFILL, Family.SM121): {16: NARROW, 32: WIDE},
    (Kernel.PREFILL_ROPE, Family.SM120): {16: NARROW},
    (Kernel.PREFILL_ROPE, Family.SM121): {16: NARROW},
}

UNSPLIT = (Kernel.PREFILL, Kernel.PREFILL_ROPE)

# A program that starts costs about as much as two tiles: queries, first copies, the output.
START_TILES = 2
# A second launch, and what a split more makes it write and read.
MERGE_TILES = 2
MERGE_TILES_A_SPLIT = 1 / 8
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
) -> Plan:
    """Return how to launch `kernel` on query rows with at most `widths` entries in their scopes.

    Splits are those that take the fewest turns of all SMs; a row alone is split into at most
    MAX_ENTRIES_ALONE entries. With `batch_invariant` a row isn't split, whatever is beside it.
    """
    tile = choose_tile(kernel, device.family, heads)
    head_blocks = -(-heads // tile.block_heads)
    tiles = sum(-(-width // tile.block_entries) for width in widths)
    if batch_invariant or kernel in UNSPLIT:
        return Plan(tile=tile, head_blocks=head_blocks, splits=1)
    alone = -(-tiles * tile.block_entries // MAX_ENTRIES_ALONE)
    least = max(1, alone if rows == 1 else 1)
    slots = device.sms * tile.ctas_per_sm

    def turns(splits: int) -> float:
        waves = -(-rows * head_blocks * splits // slots)
        merge = MERGE_TILES + MERGE_TILES_A_SPLIT * splits if splits > 1 else 0.0
        return waves * (-(-tiles // splits) + START_TILES) + merge

    candidates = range(least, max(least, tiles) + 1)
    return Plan(tile=tile, head_blocks=head_blocks, splits=min(candidates, key=turns))


@lru_cache
def describe_device(device: torch.device) -> Device:
    """Return the facts of a CUDA device; for Triton's interpreter on a CPU, those of a GB10."""
    if device.type != "cuda":
        return Device(family=Family.SM121, sms=48)
    properties = torch.cuda.get_device_properties(device)
    family = Family.SM121 if (properties.major, properties.minor) == (12, 1) else Family.SM120
    return Device(family=family, sms=properties.multi_processor_count)
