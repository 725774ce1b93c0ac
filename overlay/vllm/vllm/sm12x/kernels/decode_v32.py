# SPDX-License-Identifier: Apache-2.0
"""Row-wise V3.2 and GLM caches for `decode_kernel`: 512 e4m3 values in four groups, and RoPE.

The float32 scales needn't be powers of two, so a scaled value may have no exact bfloat16. The
kernel never scales a value: a group's logits are multiplied after its dot, and the weights before
the dot with its values. Both are a few numbers an entry instead of 512.
"""

import triton
import triton.language as tl

from .bytes import byte_planes, join4, split4

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
def _keys(words):
    """A group's four planes."""
    return byte_planes(words, tl.full([1, 1], REBIAS, tl.int16).to(tl.bfloat16, bitcast=True))


@triton.jit
def _product(q, k, GROUP: tl.constexpr):
    """A group's logits before its scale, in one sum."""
    logits = tl.dot(q[4 * GROUP], tl.trans(k[0]))
    for i in tl.static_range(1, 4):
        logits = tl.dot(q[4 * GROUP + i], tl.trans(k[i]), logits)
    return logits


@triton.jit
def _group(logits, q, words, scale, GROUP: tl.constexpr):
    """A group's four planes, and the logits with its own added, times its scale.

    Two sums in turn: one would wait for itself.
    """
    k = _keys(words)
    even = tl.dot(q[4 * GROUP], tl.trans(k[0]))
    odd = tl.dot(q[4 * GROUP + 1], tl.trans(k[1]))
    even = tl.dot(q[4 * GROUP + 2], tl.trans(k[2]), even)
    odd = tl.dot(q[4 * GROUP + 3], tl.trans(k[3]), odd)
    return k, logits + (even + odd) * scale[None, :]


@triton.jit
def scores(q, cache_ptr, page_stride, slots, index, PAGE: tl.constexpr, ROPE: tl.constexpr):
    """A tile's keys (sixteen operands), four scales an entry, its logits, and which are valid.

    With RoPE a group's products stand before the next one's conversion, so that the compiler mixes
    the two. Without, that costs more with every compiler: keys come first, then scales, then
    products in one sum a group.
    """
    row_ptr, valid = _rows(cache_ptr, page_stride, slots, index, PAGE)
    if ROPE:
        scales = _scales(row_ptr, valid)
        words0, words1 = _words(row_ptr, valid, 0), _words(row_ptr, valid, 1)
        words2, words3 = _words(row_ptr, valid, 2), _words(row_ptr, valid, 3)
        pointers = (row_ptr + ROPE_BYTES).to(tl.pointer_type(tl.bfloat16))
        pointers = pointers[:, None] + tl.arange(0, ROPE)[None, :]
        logits = tl.dot(q[16], tl.trans(tl.load(pointers, mask=valid[:, None], other=0.0)))
        k0, logits = _group(logits, q, words0, scales[0], 0)
        k1, logits = _group(logits, q, words1, scales[1], 1)
        k2, logits = _group(logits, q, words2, scales[2], 2)
        k3, logits = _group(logits, q, words3, scales[3], 3)
    else:
        words0, words1 = _words(row_ptr, valid, 0), _words(row_ptr, valid, 1)
        words2, words3 = _words(row_ptr, valid, 2), _words(row_ptr, valid, 3)
        k0, k1, k2, k3 = _keys(words0), _keys(words1), _keys(words2), _keys(words3)
        scales = _scales(row_ptr, valid)
        logits = _product(q, k0, 0) * scales[0][None, :]
        logits += _product(q, k1, 1) * scales[1][None, :]
        logits += _product(q, k2, 2) * scales[2][None, :]
        logits += _product(q, k3, 3) * scales[3][None, :]
    return k0 + k1 + k2 + k3, scales, logits, valid


@triton.jit
def sums(weights, decay, k, scales, acc):
    """The outputs with those of a tile added, each plane for itself."""
    summed = ()
    for group in tl.static_range(4):
        scaled = (weights * scales[group][None, :]).to(tl.bfloat16)
        for i in tl.static_range(4 * group, 4 * group + 4):
            summed = summed + (tl.dot(scaled, k[i], acc[i] * decay[:, None]),)
    return summed


@triton.jit
def nothing(BLOCK_H: tl.constexpr):
    """The outputs before the first key."""
    zero = tl.zeros([BLOCK_H, 32], tl.float32)
    acc = (zero, zero, zero, zero, zero, zero, zero, zero)
    return acc + acc


@triton.jit
def queries(q_ptr, mask, ROPE: tl.constexpr, BLOCK_H: tl.constexpr):
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
def store(out_ptr, acc, inverse, mask, BLOCK_H: tl.constexpr):
    """The outputs, times `inverse`, in the order of dims that a caller knows."""
    columns = tl.arange(0, 128)[None, :]
    for i in tl.static_range(4):
        x = join4(acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3], BLOCK_H, 128)
        x = (x * inverse).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + 128 * i + columns, x, mask=mask)
