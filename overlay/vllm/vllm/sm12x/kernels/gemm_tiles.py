# SPDX-License-Identifier: Apache-2.0
"""Which tile and how many splits a product beside attention gets: pure functions of shapes."""

from dataclasses import dataclass

from .tiles import Device

# Numbers of the summed dim that share a scale.
GROUP = 128


@dataclass(frozen=True, kw_only=True)
class EinsumTile:
    """Rows and columns of outputs that a program has, its warps, and tiles in flight."""

    block_rows: int
    block_columns: int
    warps: int
    stages: int


@dataclass(frozen=True, kw_only=True)
class EinsumPlan:
    """A launch: the tile, and how many programs share the summed dim of one."""

    tile: EinsumTile
    splits: int


@dataclass(frozen=True, kw_only=True)
class PrenormTile:
    """Rows of a program, numbers of the summed dim a step, its warps, and tiles in flight."""

    block_rows: int
    block_depth: int
    warps: int
    stages: int


# By rows: decode reads weights, prompts compute.
EINSUM_TILES = {
    16: EinsumTile(block_rows=16, block_columns=64, warps=4, stages=5),
    64: EinsumTile(block_rows=64, block_columns=64, warps=4, stages=4),
}
EINSUM_PROMPT = EinsumTile(block_rows=128, block_columns=128, warps=8, stages=3)

PRENORM_TILES = {
    16: PrenormTile(block_rows=16, block_depth=128, warps=4, stages=3),
    32: PrenormTile(block_rows=32, block_depth=128, warps=4, stages=3),
}
PRENORM_PROMPT = PrenormTile(block_rows=64, block_depth=64, warps=4, stages=4)


def choose_einsum_tile(rows: int) -> EinsumTile:
    """Return the tile for so many rows."""
    return next((t for limit, t in EINSUM_TILES.items() if rows <= limit), EINSUM_PROMPT)


def plan_einsum(device: Device, *, rows: int, groups: int, width: int, depth: int) -> EinsumPlan:
    """Return the tile, and the splits that give each SM a program where tiles don't."""
    tile = choose_einsum_tile(rows)
    programs = groups * (width // tile.block_columns) * -(-rows // tile.block_rows)
    blocks = depth // GROUP
    wanted = min(blocks, max(1, -(-device.sms // programs)))
    # Programs take whole blocks, as many as leave none of the SMs without.
    return EinsumPlan(tile=tile, splits=-(-blocks // (blocks // wanted)))


def choose_prenorm_tile(rows: int, depth: int) -> PrenormTile:
    """Return the tile for so many rows; one of steps that divide the depth."""
    tile = next((t for limit, t in PRENORM_TILES.items() if rows <= limit), PRENORM_PROMPT)
    if depth % tile.block_depth == 0:
        return tile
    return PrenormTile(
        block_rows=tile.block_rows, block_depth=64, warps=tile.warps, stages=tile.stages
    )
