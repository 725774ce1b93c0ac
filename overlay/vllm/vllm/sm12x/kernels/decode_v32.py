# SPDX-License-Identifier: Apache-2.0
"""Sparse decode over row-wise V3.2 and GLM caches: 512 e4m3 values in four groups, which are V too.

The float32 scales needn't be powers of two, so a scaled value may have no exact bfloat16. The
kernel never scales a value: a group's logits are multiplied after its dot, and the weights before
the dot with its values. Both are a few numbers an entry instead of 512.
"""

import triton
import triton.language as tl

from .bytes import byte_planes, join4, split4
from .softmax import VARYING, count, divisor, fold, natural_lse, pick, share

ROW_BYTES: tl.constexpr = tl.constexpr(656)
SCALE_BYTES: tl.constexpr = tl.constexpr(512)
ROPE_BYTES: tl.constexpr = tl.constexpr(528)
# 2^120 as a bfloat16: what is missing between an e4m3's exponent bias and a bfloat16's.
REBIAS: tl.constexpr = tl.constexpr((120 + 127) << 7)


@triton.jit
def _words(row_ptr, valid, CHUNK: tl.constexpr):
    """The words (entries, 32) of 128 values, 0 for what isn't valid."""
    pointers = (row_ptr + 128 * CHUNK).to(tl.pointer_type(tl.int32))
    pointers = pointers[:, None] + tl.arange(0, 32)[None, :]
    return tl.load(pointers, mask=valid[:, None], other=0)


@triton.jit
def _scales(row_ptr, valid):
    """The four scales of each entry, from two loads."""
    pointer = (row_ptr + SCALE_BYTES).to(tl.pointer_type(tl.int64))
    first = tl.load(pointer, mask=valid, other=0)
    second = tl.load(pointer + 1, mask=valid, other=0)
    return (
        first.to(tl.int32).to(tl.float32, bitcast=True),
        (first >> 32).to(tl.int32).to(tl.float32, bitcast=True),
        second.to(tl.int32).to(tl.float32, bitcast=True),
        (second >> 32).to(tl.int32).to(tl.float32, bitcast=True),
    )


@triton.jit
def _rows(cache_ptr, page_stride, slots, index, PAGE: tl.constexpr):
    """Where each entry's row is, and which entries are valid; the others point at slot 0."""
    valid = (index >= 0) & (index < slots)
    slot = tl.where(valid, index, 0).to(tl.uint32)
    page_ptr = cache_ptr + (slot // PAGE).to(tl.int64) * page_stride
    return page_ptr + (slot % PAGE).to(tl.int32) * ROW_BYTES, valid


@triton.jit
def _attend(
    q, m, total, acc, cache_ptr, page_stride, slots, index_ptr, counted, tiles, scale,
    PAGE: tl.constexpr, ROPE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Fold the entries of the tiles `tiles` = (first, end) of one scope into a row's state."""
    factor = tl.full([1, 1], REBIAS, tl.int16).to(tl.bfloat16, bitcast=True)
    upcoming = pick(index_ptr, tiles[0] * BLOCK_N, counted, BLOCK_N)
    for tile in range(tiles[0], tiles[1]):
        index = upcoming
        # One tile ahead, so that a tile's copies don't wait for its own indices.
        upcoming = pick(index_ptr, (tile + 1) * BLOCK_N, counted, BLOCK_N)
        row_ptr, valid = _rows(cache_ptr, page_stride, slots, index, PAGE)
        scales = _scales(row_ptr, valid)
        words0, words1 = _words(row_ptr, valid, 0), _words(row_ptr, valid, 1)
        words2, words3 = _words(row_ptr, valid, 2), _words(row_ptr, valid, 3)
        k = byte_planes(words0, factor) + byte_planes(words1, factor)
        k = k + byte_planes(words2, factor) + byte_planes(words3, factor)
        if ROPE:
            pointers = (row_ptr + ROPE_BYTES).to(tl.pointer_type(tl.bfloat16))
            pointers = pointers[:, None] + tl.arange(0, ROPE)[None, :]
            rope = tl.load(pointers, mask=valid[:, None], other=0.0)
            logits = tl.dot(q[16], tl.trans(rope))
        else:
            logits = tl.zeros([q[0].shape[0], BLOCK_N], tl.float32)
        for group in tl.static_range(4):
            part = tl.dot(q[4 * group], tl.trans(k[4 * group]))
            for i in tl.static_range(4 * group + 1, 4 * group + 4):
                part = tl.dot(q[i], tl.trans(k[i]), part)
            logits += part * scales[group][None, :]
        weights, decay, m, total = fold(logits * scale, valid, m, total)
        summed = ()
        for group in tl.static_range(4):
            scaled = (weights * scales[group][None, :]).to(tl.bfloat16)
            for i in tl.static_range(4 * group, 4 * group + 4):
                summed = summed + (tl.dot(scaled, k[i], acc[i] * decay[:, None]),)
        acc = summed
    return m, total, acc


@triton.jit
def _queries(q_ptr, mask, ROPE: tl.constexpr, BLOCK_H: tl.constexpr):
    """The operands that belong to those of the keys: sixteen planes, and RoPE if there is any."""
    columns = tl.arange(0, 128)[None, :]
    planes = split4(tl.load(q_ptr + columns, mask=mask, other=0.0), BLOCK_H, 128)
    for group in tl.static_range(1, 4):
        x = tl.load(q_ptr + 128 * group + columns, mask=mask, other=0.0)
        planes = planes + split4(x, BLOCK_H, 128)
    if ROPE:
        rope = tl.load(q_ptr + 512 + tl.arange(0, ROPE)[None, :], mask=mask, other=0.0)
        planes = planes + (rope,)
    return planes


@triton.jit
def _store(out_ptr, acc, inverse, mask, BLOCK_H: tl.constexpr):
    columns = tl.arange(0, 128)[None, :]
    for i in tl.static_range(4):
        x = join4(acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3], BLOCK_H, 128)
        x = (x * inverse).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + 128 * i + columns, x, mask=mask)


# Nor may a slice of the lengths compile another kernel.
@triton.jit(
    do_not_specialize=VARYING, do_not_specialize_on_alignment=["length_ptr", "extra_length_ptr"]
)
def decode_v32_kernel(
    q_ptr, sink_ptr, out_ptr, lse_ptr, partial_ptr, partial_lse_ptr,
    cache_ptr, index_ptr, length_ptr, page_stride, slots, width, index_stride,
    extra_cache_ptr, extra_index_ptr, extra_length_ptr, extra_page_stride, extra_slots,
    extra_width, extra_index_stride,
    q_row_stride, q_head_stride, out_row_stride, out_head_stride, lse_row_stride, heads, splits,
    scale, PAGE: tl.constexpr, EXTRA_PAGE: tl.constexpr, SPLIT: tl.constexpr, ROPE: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (rows * head blocks, splits). `scale` is softmax scale * log2(e). ROPE is 64 or 0.

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

    q_ptr += row * q_row_stride + (head * q_head_stride)[:, None]
    q = _queries(q_ptr, mask, ROPE, BLOCK_H)
    m = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    zero = tl.zeros([BLOCK_H, 32], tl.float32)
    acc = (zero, zero, zero, zero, zero, zero, zero, zero)
    acc = acc + acc
    m, total, acc = _attend(
        q, m, total, acc, cache_ptr, page_stride, slots, index_ptr + row * index_stride, counted,
        (tl.minimum(first, tiles), tl.minimum(end, tiles)), scale, PAGE, ROPE, BLOCK_N,
    )  # fmt: skip
    if extra_cache_ptr is not None:
        m, total, acc = _attend(
            q, m, total, acc, extra_cache_ptr, extra_page_stride, extra_slots,
            extra_index_ptr + row * extra_index_stride, extra_counted,
            (tl.maximum(first - tiles, 0), tl.maximum(end - tiles, 0)), scale,
            EXTRA_PAGE, ROPE, BLOCK_N,
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
