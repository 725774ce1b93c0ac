# SPDX-License-Identifier: Apache-2.0
"""Which tile and how many programs a call for the indexer's logits gets, from shapes alone."""

from dataclasses import dataclass

from .tiles import Device, Family

# A tensor core's tile has so many columns at least.
LEAST_HEADS = 16
# Programs that an SM holds at once, and a little more so that none idles at the end.
PROGRAMS_PER_SM = 4


@dataclass(frozen=True, kw_only=True)
class LogitsTile:
    """Keys and query rows of a program, its warps, and tiles in flight."""

    block_keys: int
    block_rows: int
    warps: int
    stages: int


def rounded_heads(heads: int) -> int:
    """Return the power of two, 16 or more, that a kernel computes for so many heads."""
    return max(LEAST_HEADS, 1 << (heads - 1).bit_length())


def choose_prompt_tile(family: Family, heads: int, rows: int) -> LogitsTile:
    """Return the tile for a prompt's rows."""
    return LogitsTile(block_keys=128, block_rows=32, warps=4, stages=3)


def choose_decode_tile(family: Family, heads: int, page_size: int) -> LogitsTile:
    """Return the tile for decode: a part of a page, so that one entry of the table serves it."""
    block = next(size for size in (64, 32, 16) if page_size % size == 0)
    return LogitsTile(block_keys=block, block_rows=1, warps=max(1, block // 32), stages=3)


def splits_of(device: Device, requests: int, tiles: int) -> int:
    """Return how many programs share a request's tiles: all SMs are to have their fill."""
    return max(1, min(tiles, -(-device.sms * PROGRAMS_PER_SM // requests)))
