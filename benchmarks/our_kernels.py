# SPDX-License-Identifier: Apache-2.0
"""Every kernel as it is launched: attention's for each tile of the table, for all it serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vllm.sm12x.kernels.decode_kernel import decode_kernel
from vllm.sm12x.kernels.prefill import prefill_kernel
from vllm.sm12x.kernels.tiles import TABLE, Family, Kernel, Tile

from benchmarks.compiled import Build
from benchmarks.our_products import product_builds

FAMILIES = {120: Family.SM120, 121: Family.SM121}
SLOTS = 64000
SPLITS = 8


def our_builds(capability: int) -> Iterator[Build]:
    """What a device of sm_<capability> runs."""
    family = FAMILIES[capability]
    for (kernel, of), tiles in TABLE.items():
        if of is family:
            for tile in tiles.values():
                yield from _builds(kernel, tile)
    yield from product_builds(family)


def _builds(kernel: Kernel, tile: Tile) -> Iterator[Build]:
    match kernel:
        case Kernel.DECODE_V4:
            yield _decode("V4, one scope, split", tile, splits=SPLITS)
            yield _decode("V4, one scope, whole", tile, splits=1)
            yield _decode("V4, two scopes, split", tile, extra_page=64, splits=SPLITS)
            yield _decode("V4, two scopes, whole", tile, extra_page=64, splits=1)
            yield _decode("V4, second scope in pages of 2, whole", tile, extra_page=2, splits=1)
        case Kernel.DECODE_V32:
            yield _decode("V3.2, split", tile, splits=SPLITS, rope=64)
            yield _decode("V3.2, whole", tile, splits=1, rope=64)
            yield _decode("V3.2 without RoPE, split", tile, splits=SPLITS, rope=0)
            yield _decode("V3.2 without RoPE, whole", tile, splits=1, rope=0)
        case Kernel.PREFILL:
            yield _prefill(tile, 512)
        case Kernel.PREFILL_ROPE:
            yield _prefill(tile, 576)


def _decode(
    name: str, tile: Tile, *, extra_page: int = 0, splits: int, rope: int | None = None
) -> Build:
    """As vLLM calls it: V4 with a sink and lengths, V3.2 with neither."""
    v4 = rope is None
    rope = rope or 0
    heads, width = tile.block_heads, 512 + rope
    constants: dict[str, Any] = {
        "V4": v4,
        "PAGE": 64,
        "EXTRA_PAGE": extra_page or 1,
        "ROPE": rope,
        "SPLIT": splits > 1,
    }
    scopes = {"": True, "extra_": extra_page > 0}
    written = ("out_ptr", "bf16") if splits == 1 else ("partial_ptr", "fp32")
    return Build(
        label=f"{name}, {heads} heads",
        kernel=decode_kernel,
        pointers={
            "q_ptr": "bf16",
            "sink_ptr": "fp32" if v4 else None,
            "out_ptr": "bf16",
            "lse_ptr": "fp32",
            "partial_ptr": None,
            "partial_lse_ptr": None if splits == 1 else "fp32",
            **dict([written]),
            **{f"{scope}cache_ptr": "u8" if there else None for scope, there in scopes.items()},
            **{f"{scope}index_ptr": "i32" if there else None for scope, there in scopes.items()},
            **{
                f"{scope}length_ptr": "i32" if there and v4 else None
                for scope, there in scopes.items()
            },
        },
        numbers={
            **{f"{scope}page_stride": 37440 if v4 else 64 * 656 for scope in scopes},
            **{f"{scope}slots": SLOTS for scope in scopes},
            **{f"{scope}width": 512 for scope in scopes},
            **{f"{scope}index_stride": 512 for scope in scopes},
            "q_row_stride": heads * width,
            "q_head_stride": width,
            "out_row_stride": heads * 512,
            "out_head_stride": 512,
            "lse_row_stride": heads,
            "heads": heads,
            "splits": splits,
            "scale": 0.06,
        },
        constants={**constants, "BLOCK_H": heads, "BLOCK_N": tile.block_entries},
        warps=tile.warps,
        stages=tile.stages,
        entries=tile.block_entries,
        entry_bytes=584 if v4 else 528 + 2 * rope,
        heads=heads,
        width=512 + width,
    )


def _prefill(tile: Tile, width: int) -> Build:
    heads = tile.block_heads
    return Build(
        label=f"prefill, {width} wide, {heads} heads",
        kernel=prefill_kernel,
        pointers={
            "q_ptr": "bf16",
            "kv_ptr": "bf16",
            "index_ptr": "i32",
            "length_ptr": "i32",
            "sink_ptr": "fp32",
            "out_ptr": "bf16",
            "max_ptr": "fp32",
            "lse_ptr": "fp32",
        },
        numbers={
            "q_row_stride": heads * width,
            "q_head_stride": width,
            "kv_stride": width,
            "keys": SLOTS,
            "index_stride": 2048,
            "width": 2048,
            "out_row_stride": heads * 512,
            "out_head_stride": 512,
            "max_row_stride": heads,
            "lse_row_stride": heads,
            "heads": heads,
            "scale": 0.06,
        },
        constants={"CHUNKS": width // 64, "BLOCK_H": heads, "BLOCK_N": tile.block_entries},
        warps=tile.warps,
        stages=tile.stages,
        entries=tile.block_entries,
        entry_bytes=2 * width,
        heads=heads,
        width=512 + width,
    )
