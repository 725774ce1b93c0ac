# SPDX-License-Identifier: Apache-2.0
"""Sparse decode, whatever the layout: one program's row, heads and share of the entries.

What differs between layouts is in `decode_v4` and `decode_v32`: how bytes become operands, and
where their scales go.
"""

import triton
import triton.language as tl

from . import decode_v4 as v4
from . import decode_v32 as v32
from .softmax import VARYING, add, count, divisor, fold, natural_lse, no_sum, pick, share


@triton.jit
def _attend(
    q, m, total, acc, cache_ptr, page_stride, slots, index_ptr, counted, tiles, scale,
    V4: tl.constexpr, PAGE: tl.constexpr, ROPE: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Fold the entries of the tiles `tiles` = (first, end) of one scope into a row's state."""
    upcoming = pick(index_ptr, tiles[0] * BLOCK_N, counted, BLOCK_N)
    # With 32 heads no register is left to keep an address in; with 16 it takes longer without.
    for tile in tl.range(tiles[0], tiles[1], disable_licm=BLOCK_H == 32):
        index = upcoming
        # One tile ahead, so that a tile's copies don't wait for its own indices.
        upcoming = pick(index_ptr, (tile + 1) * BLOCK_N, counted, BLOCK_N)
        if V4:
            k, scales, logits, valid = v4.scores(
                q, cache_ptr, page_stride, slots, index, PAGE, BLOCK_H, BLOCK_N
            )
        else:
            k, scales, logits, valid = v32.scores(
                q, cache_ptr, page_stride, slots, index, PAGE, ROPE
            )
        weights, decay, m = fold(logits * scale, valid, m)
        total = add(total, weights, decay, BLOCK_H == 16)
        if V4:
            acc = v4.sums(weights, decay, k, scales, acc)
        else:
            acc = v32.sums(weights, decay, k, scales, acc)
    return m, total, acc


@triton.jit
def _store(out_ptr, acc, inverse, mask, V4: tl.constexpr, BLOCK_H: tl.constexpr):
    if V4:
        v4.store(out_ptr, acc, inverse, mask, BLOCK_H)
    else:
        v32.store(out_ptr, acc, inverse, mask, BLOCK_H)


# Nor may a slice of the lengths compile another kernel.
@triton.jit(
    do_not_specialize=VARYING, do_not_specialize_on_alignment=["length_ptr", "extra_length_ptr"]
)
def decode_kernel(
    q_ptr, sink_ptr, out_ptr, lse_ptr, partial_ptr, partial_lse_ptr,
    cache_ptr, index_ptr, length_ptr, page_stride, slots, width, index_stride,
    extra_cache_ptr, extra_index_ptr, extra_length_ptr, extra_page_stride, extra_slots,
    extra_width, extra_index_stride,
    q_row_stride, q_head_stride, out_row_stride, out_head_stride, lse_row_stride, heads, splits,
    scale, V4: tl.constexpr, PAGE: tl.constexpr, EXTRA_PAGE: tl.constexpr, ROPE: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (rows * head blocks, splits).

    `scale` is softmax scale * log2(e), times 2^64 for V4. ROPE is what V3.2's queries have beyond
    512 numbers, 64 or 0. Without SPLIT it writes `out` (bfloat16) and `lse`; with it, float32
    outputs of each split's own softmax to `partial` (rows, splits, heads, 512) and base-2 LSEs to
    `partial_lse`, for `merge`.
    """
    blocks = tl.cdiv(heads, BLOCK_H)
    row, split = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(1)
    head = (tl.program_id(0) % blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    valid_head = head < heads
    mask = valid_head[:, None]
    counted = count(length_ptr, row, width)
    tiles = tl.cdiv(counted, BLOCK_N)
    if extra_cache_ptr is not None:
        extra_counted = count(extra_length_ptr, row, extra_width)
        extra_tiles = tl.cdiv(extra_counted, BLOCK_N)
    else:
        extra_tiles = 0
    first, end = share(tiles + extra_tiles, split, splits)

    q_ptr += row * q_row_stride + (head * q_head_stride)[:, None]
    if V4:
        q, acc = v4.queries(q_ptr, mask, BLOCK_H), v4.nothing(BLOCK_H)
    else:
        q, acc = v32.queries(q_ptr, mask, ROPE, BLOCK_H), v32.nothing(BLOCK_H)
    m = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = no_sum(BLOCK_H == 16, BLOCK_H, BLOCK_N)
    m, total, acc = _attend(
        q, m, total, acc, cache_ptr, page_stride, slots, index_ptr + row * index_stride, counted,
        (tl.minimum(first, tiles), tl.minimum(end, tiles)), scale, V4, PAGE, ROPE, BLOCK_H,
        BLOCK_N,
    )  # fmt: skip
    if extra_cache_ptr is not None:
        m, total, acc = _attend(
            q, m, total, acc, extra_cache_ptr, extra_page_stride, extra_slots,
            extra_index_ptr + row * extra_index_stride, extra_counted,
            (tl.maximum(first - tiles, 0), tl.maximum(end - tiles, 0)), scale,
            V4, EXTRA_PAGE, ROPE, BLOCK_H, BLOCK_N,
        )  # fmt: skip

    if BLOCK_H == 16:
        total = tl.sum(total, 1)
    if not SPLIT:
        inverse = divisor(m, total, sink_ptr, head, valid_head)[:, None]
        out_ptr += row * out_row_stride + (head * out_head_stride)[:, None]
        _store(out_ptr, acc, inverse, mask, V4, BLOCK_H)
        tl.store(lse_ptr + row * lse_row_stride + head, natural_lse(m, total), mask=valid_head)
    else:
        part = (row * splits + split) * heads + head
        inverse = tl.where(total == 0, 0.0, 1.0 / total)[:, None]
        _store(partial_ptr + part[:, None] * 512, acc, inverse, mask, V4, BLOCK_H)
        tl.store(partial_lse_ptr + part, m + tl.log2(total), mask=valid_head)
