# SPDX-License-Identifier: Apache-2.0
"""The kernels beside attention as they are launched at the models' shapes."""

from __future__ import annotations

from collections.abc import Iterator

from vllm.sm12x.kernels.fp8_einsum import fp8_einsum_kernel
from vllm.sm12x.kernels.gemm_tiles import (
    EINSUM_PROMPT,
    EINSUM_TILES,
    GROUP,
    PRENORM_TILES,
    EinsumTile,
    PrenormTile,
    choose_prenorm_tile,
)
from vllm.sm12x.kernels.hc_prenorm import hc_prenorm_kernel
from vllm.sm12x.kernels.logits_tiles import choose_decode_tile, choose_prompt_tile
from vllm.sm12x.kernels.mqa_logits import mqa_logits_kernel
from vllm.sm12x.kernels.paged_mqa_logits import tiled_kernel
from vllm.sm12x.kernels.tiles import Family as Device

from benchmarks.compiled import Build, Family

DIM = 128
PAGE, PAGE_BYTES = 64, 8640
# V4 and V3.2, and GLM-5.
INDEXER_HEADS = (64, 32)
# V4-Flash on two devices: four groups of 4096 inputs and 1024 outputs.
GROUPS, WIDTH, DEPTH = 4, 1024, 4096
COLUMNS, CONNECTION = 24, 4 * 4096


def product_builds(device: Device) -> Iterator[Build]:
    """What stands in for DeepGEMM on a device."""
    for heads in INDEXER_HEADS:
        yield _prompt(device, heads)
        for tokens in (1, 2):
            yield _decode(device, heads, tokens)
    for tile in (*EINSUM_TILES.values(), EINSUM_PROMPT):
        yield _einsum(tile, split=tile is not EINSUM_PROMPT)
    for rows in (*PRENORM_TILES, max(PRENORM_TILES) + 1):
        yield _prenorm(choose_prenorm_tile(rows, CONNECTION))


def _prompt(device: Device, heads: int) -> Build:
    tile = choose_prompt_tile(device, heads, 4096)
    return Build(
        label=f"indexer logits, prompt, {heads} heads",
        kernel=mqa_logits_kernel,
        pointers={
            **dict.fromkeys(("q_ptr", "k_ptr"), "fp8e4nv"),
            **dict.fromkeys(("scale_ptr", "weight_ptr", "out_ptr"), "fp32"),
            **dict.fromkeys(("first_ptr", "end_ptr"), "i32"),
        },
        numbers={
            "q_row_stride": heads * DIM,
            "q_head_stride": DIM,
            "k_stride": DIM,
            "weight_stride": heads,
            "out_stride": 4096,
            "rows": 4096,
            "keys": 4096,
            "heads": heads,
        },
        constants={
            "HEADS": heads,
            "DIM": DIM,
            "BLOCK_M": tile.block_rows,
            "BLOCK_N": tile.block_keys,
        },
        warps=tile.warps,
        stages=tile.stages,
        entries=tile.block_keys,
        # A turn fetches a query for the tile's keys.
        entry_bytes=heads * DIM // tile.block_keys,
        heads=heads,
        width=DIM,
        family=Family.LOGITS,
    )


def _decode(device: Device, heads: int, tokens: int) -> Build:
    tile = choose_decode_tile(device, heads, PAGE)
    many = f", {tokens} query tokens" if tokens > 1 else ""
    return Build(
        label=f"indexer logits, decode, {heads} heads{many}",
        kernel=tiled_kernel,
        pointers={
            "q_ptr": "fp8e4nv",
            "cache_ptr": "u8",
            **dict.fromkeys(("weight_ptr", "out_ptr"), "fp32"),
            **dict.fromkeys(("length_ptr", "table_ptr"), "i32"),
        },
        numbers={
            "q_batch_stride": tokens * heads * DIM,
            "q_token_stride": heads * DIM,
            "q_head_stride": DIM,
            "page_stride": PAGE_BYTES,
            "weight_stride": heads,
            "length_stride": tokens,
            "table_stride": 512,
            "out_stride": 4096,
            "blocks": 512,
            "pages": 4096,
            "columns": 32768,
            "heads": heads,
            "next_n": tokens,
            "splits": 48,
        },
        constants={
            "TOKENS": tokens,
            "OWN": True,
            "HEADS": heads,
            "DIM": DIM,
            "PAGE": PAGE,
            "BLOCK_N": tile.block_keys,
        },
        warps=tile.warps,
        stages=tile.stages,
        entries=tile.block_keys,
        entry_bytes=DIM + 4,
        heads=heads,
        width=DIM,
        family=Family.LOGITS,
        queries=tokens,
    )


def _einsum(tile: EinsumTile, *, split: bool) -> Build:
    return Build(
        label=f"V4 output projection, {tile.block_rows} rows",
        kernel=fp8_einsum_kernel,
        pointers={
            **dict.fromkeys(("a_ptr", "b_ptr"), "fp8e4nv"),
            "a_scale_ptr": "i32",
            "b_scale_ptr": "fp32",
            "out_ptr": "bf16",
            "partial_ptr": "fp32" if split else None,
        },
        numbers={
            "a_row_stride": DEPTH,
            "a_group_stride": tile.block_rows * DEPTH,
            "scale_row_stride": 1,
            "scale_group_stride": tile.block_rows * DEPTH // GROUP // 4,
            "scale_block_stride": tile.block_rows,
            "b_group_stride": WIDTH * DEPTH,
            "b_row_stride": DEPTH,
            "out_row_stride": GROUPS * WIDTH,
            "out_group_stride": WIDTH,
            "rows": tile.block_rows,
            "groups": GROUPS,
            "splits": 3,
        },
        constants={
            "WIDTH": WIDTH,
            "DEPTH": DEPTH,
            "SPLIT": split,
            "BLOCK_M": tile.block_rows,
            "BLOCK_N": tile.block_columns,
        },
        warps=tile.warps,
        stages=tile.stages,
        # A turn takes so many weights of each column.
        entries=tile.block_columns,
        entry_bytes=GROUP,
        heads=tile.block_rows,
        width=GROUP,
        family=Family.EINSUM,
    )


def _prenorm(tile: PrenormTile) -> Build:
    return Build(
        label=f"HyperConnection prenorm, {tile.block_rows} rows",
        kernel=hc_prenorm_kernel,
        pointers={
            "x_ptr": "bf16",
            **dict.fromkeys(("fn_ptr", "out_ptr", "square_ptr"), "fp32"),
        },
        numbers={
            "x_stride": CONNECTION,
            "fn_stride": CONNECTION,
            "out_split_stride": COLUMNS * tile.block_rows,
            "out_stride": COLUMNS,
            "square_stride": tile.block_rows,
            "rows": tile.block_rows,
            "splits": 48,
        },
        constants={
            "DEPTH": CONNECTION,
            "COLUMNS": COLUMNS,
            "ROUNDED": 32,
            "BLOCK_M": tile.block_rows,
            "BLOCK_K": tile.block_depth,
        },
        warps=tile.warps,
        stages=tile.stages,
        entries=tile.block_depth,
        entry_bytes=2 * tile.block_rows + 4 * COLUMNS,
        heads=COLUMNS,
        # The matrix comes in two parts.
        width=2 * tile.block_rows,
        family=Family.PRENORM,
    )
