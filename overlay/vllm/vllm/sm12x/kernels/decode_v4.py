# SPDX-License-Identifier: Apache-2.0
"""Sparse decode over block-packed V4 caches: 448 e4m3 values in seven groups, 64 bfloat16, all V.

One program takes a query row, up to BLOCK_H of its heads and a share of its entries, of one or two
scopes. The bytes of the next tile come by asynchronous copies while a tile is worked on; each is
fetched once for all the heads of the program.
"""

import triton
import triton.language as tl

from .bytes import DOWN, UP, byte_planes, exponent_factor, half_planes, join4, split2, split4
from .softmax import VARYING, count, divisor, fold, natural_lse, pick, share

NOPE_BYTES: tl.constexpr = tl.constexpr(448)
ROW_BYTES: tl.constexpr = tl.constexpr(576)
OPERANDS: tl.constexpr = tl.constexpr(15)  # 3 chunks of 4 planes, a half chunk of 2, RoPE


@triton.jit
def _factors(exponents, CHUNK: tl.constexpr):
    """Factors (entries, 32) of a chunk's words: 64 dims share one, so 16 words do."""
    first = tl.arange(0, 32)[None, :] < 16
    low = exponent_factor(exponents, 2 * CHUNK)[:, None]
    high = exponent_factor(exponents, 2 * CHUNK + 1)[:, None]
    return tl.where(first, low, high).to(tl.bfloat16, bitcast=True)


@triton.jit
def _load(row_ptr, valid, FIRST: tl.constexpr, COUNT: tl.constexpr, dtype: tl.constexpr):
    """COUNT numbers of each entry's row from byte FIRST on, 0 for what isn't valid."""
    pointers = (row_ptr + FIRST).to(tl.pointer_type(dtype))[:, None] + tl.arange(0, COUNT)[None, :]
    return tl.load(pointers, mask=valid[:, None], other=0)


@triton.jit
def _keys(cache_ptr, page_stride, slots, index, PAGE: tl.constexpr):
    """The fifteen operands of a tile's keys, all but RoPE times 2^-64, and which are valid."""
    valid = (index >= 0) & (index < slots)
    # Masked lanes must hold an address that exists too.
    slot = tl.where(valid, index, 0).to(tl.uint32)
    place = (slot % PAGE).to(tl.int32)
    page_ptr = cache_ptr + (slot // PAGE).to(tl.int64) * page_stride
    row_ptr = page_ptr + place * ROW_BYTES
    scale_ptr = (page_ptr + PAGE * ROW_BYTES + place * 8).to(tl.pointer_type(tl.int64))
    exponents = tl.load(scale_ptr, mask=valid, other=0)
    words0 = _load(row_ptr, valid, 0, 32, tl.int32)
    words1 = _load(row_ptr, valid, 128, 32, tl.int32)
    words2 = _load(row_ptr, valid, 256, 32, tl.int32)
    halves = _load(row_ptr, valid, 384, 32, tl.int16)
    rope = _load(row_ptr, valid, NOPE_BYTES, 64, tl.bfloat16)
    factor = exponent_factor(exponents, 6)[:, None].to(tl.bfloat16, bitcast=True)
    planes = byte_planes(words0, _factors(exponents, 0))
    planes += byte_planes(words1, _factors(exponents, 1))
    planes += byte_planes(words2, _factors(exponents, 2))
    return planes + half_planes(halves, factor) + (rope,), valid


@triton.jit
def _attend(
    q, m, total, acc, cache_ptr, page_stride, slots, index_ptr, counted, tiles, scale,
    PAGE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Fold the entries of the tiles `tiles` = (first, end) of one scope into a row's state."""
    upcoming = pick(index_ptr, tiles[0] * BLOCK_N, counted, BLOCK_N)
    for tile in range(tiles[0], tiles[1]):
        index = upcoming
        # One tile ahead, so that a tile's copies don't wait for its own indices.
        upcoming = pick(index_ptr, (tile + 1) * BLOCK_N, counted, BLOCK_N)
        k, valid = _keys(cache_ptr, page_stride, slots, index, PAGE)
        logits = tl.dot(q[0], tl.trans(k[0]))
        for i in tl.static_range(1, OPERANDS):
            logits = tl.dot(q[i], tl.trans(k[i]), logits)
        weights, decay, m, total = fold(logits * scale, valid, m, total)
        weights = weights.to(tl.bfloat16)
        summed = ()
        for i in tl.static_range(OPERANDS):
            summed = summed + (tl.dot(weights, k[i], acc[i] * decay[:, None]),)
        acc = summed
    return m, total, acc


@triton.jit
def _queries(q_ptr, mask, BLOCK_H: tl.constexpr):
    """The operands that belong to those of the keys; RoPE as much too small as the others' keys."""
    wide, narrow = tl.arange(0, 128)[None, :], tl.arange(0, 64)[None, :]
    q0 = tl.load(q_ptr + wide, mask=mask, other=0.0)
    q1 = tl.load(q_ptr + 128 + wide, mask=mask, other=0.0)
    q2 = tl.load(q_ptr + 256 + wide, mask=mask, other=0.0)
    q3 = tl.load(q_ptr + 384 + narrow, mask=mask, other=0.0)
    rope = tl.load(q_ptr + 448 + narrow, mask=mask, other=0.0)
    rope = (rope.to(tl.float32) * DOWN).to(tl.bfloat16)
    planes = split4(q0, BLOCK_H, 128) + split4(q1, BLOCK_H, 128) + split4(q2, BLOCK_H, 128)
    return planes + split2(q3, BLOCK_H, 64) + (rope,)


@triton.jit
def _store(out_ptr, acc, inverse, mask, BLOCK_H: tl.constexpr):
    wide, narrow = tl.arange(0, 128)[None, :], tl.arange(0, 64)[None, :]
    dtype = out_ptr.dtype.element_ty
    up = inverse * UP
    for i in tl.static_range(3):
        x = join4(acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3], BLOCK_H, 128)
        tl.store(out_ptr + 128 * i + wide, (x * up).to(dtype), mask=mask)
    tl.store(out_ptr + 384 + narrow, (tl.interleave(acc[12], acc[13]) * up).to(dtype), mask=mask)
    tl.store(out_ptr + 448 + narrow, (acc[14] * inverse).to(dtype), mask=mask)


# Nor may a slice of the lengths compile another kernel.
@triton.jit(
    do_not_specialize=VARYING, do_not_specialize_on_alignment=["length_ptr", "extra_length_ptr"]
)
def decode_v4_kernel(
    q_ptr, sink_ptr, out_ptr, lse_ptr, partial_ptr, partial_lse_ptr,
    cache_ptr, index_ptr, length_ptr, page_stride, slots, width, index_stride,
    extra_cache_ptr, extra_index_ptr, extra_length_ptr, extra_page_stride, extra_slots,
    extra_width, extra_index_stride,
    q_row_stride, q_head_stride, out_row_stride, out_head_stride, lse_row_stride, heads, splits,
    scale, PAGE: tl.constexpr, EXTRA_PAGE: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (rows * head blocks, splits). `scale` is softmax scale * log2(e) * 2^64.

    Without SPLIT it writes `out` (bfloat16) and `lse`; with it, float32 outputs of each split's own
    softmax to `partial` (rows, splits, heads, 512) and base-2 LSEs to `partial_lse`, for `merge`.
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

    q = _queries(q_ptr + row * q_row_stride + (head * q_head_stride)[:, None], mask, BLOCK_H)
    m = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    zero = tl.zeros([BLOCK_H, 32], tl.float32)
    acc = (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
    acc = acc + (tl.zeros([BLOCK_H, 64], tl.float32),)
    m, total, acc = _attend(
        q, m, total, acc, cache_ptr, page_stride, slots, index_ptr + row * index_stride, counted,
        (tl.minimum(first, tiles), tl.minimum(end, tiles)), scale, PAGE, BLOCK_N,
    )  # fmt: skip
    if extra_cache_ptr is not None:
        m, total, acc = _attend(
            q, m, total, acc, extra_cache_ptr, extra_page_stride, extra_slots,
            extra_index_ptr + row * extra_index_stride, extra_counted,
            (tl.maximum(first - tiles, 0), tl.maximum(end - tiles, 0)), scale,
            EXTRA_PAGE, BLOCK_N,
        )  # fmt: skip

    if not SPLIT:
        inverse = divisor(m, total, sink_ptr, head, valid_head)[:, None]
        out_ptr += row * out_row_stride + (head * out_head_stride)[:, None]
        _store(out_ptr, acc, inverse, mask, BLOCK_H)
        tl.store(lse_ptr + row * lse_row_stride + head, natural_lse(m, total), mask=valid_head)
    else:
        part = (row * splits + split) * heads + head
        inverse = tl.where(total == 0, 0.0, 1.0 / total)[:, None]
        _store(partial_ptr + part[:, None] * 512, acc, inverse, mask, BLOCK_H)
        tl.store(partial_lse_ptr + part, m + tl.log2(total), mask=valid_head)
