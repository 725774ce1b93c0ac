# SPDX-License-Identifier: Apache-2.0
"""Block-packed V4 caches for `decode_kernel`: 448 e4m3 values in seven groups, 64 bfloat16, all V.

The bytes of the next tile come by asynchronous copies while a tile is worked on; each is fetched
once for all the heads of the program. Scales are powers of two, so values carry theirs.
"""

import triton
import triton.language as tl

from .bytes import DOWN, UP, byte_planes, exponent_factor, half_planes, join4, split2, split4

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
def _last_factor(exponents):
    """The factor (entries, 32) of the half chunk, as one that depends on the column.

    With one that doesn't, Triton converts this chunk where it is used: twice, in the layouts of
    both products, from loads of two bytes each, which takes registers that 32 heads don't have.
    """
    column = tl.arange(0, 32)[None, :]
    factor = tl.where(column < 32, exponent_factor(exponents, 6)[:, None], 0)
    return factor.to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def _load(row_ptr, valid, FIRST: tl.constexpr, COUNT: tl.constexpr, dtype: tl.constexpr):
    """COUNT numbers of each entry's row from byte FIRST on, 0 for what isn't valid."""
    pointers = (row_ptr + FIRST).to(tl.pointer_type(dtype))[:, None] + tl.arange(0, COUNT)[None, :]
    return tl.load(pointers, mask=valid[:, None], other=0)


@triton.jit
def _dots(q, k, even, odd, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """Add the products of COUNT operands to two sums in turn: with 16 heads one waits for itself.

    With 32 a warp has two products of different heads at a time, and no registers to spare.
    """
    for i in tl.static_range(0, COUNT, 2):
        even = tl.dot(q[FIRST + i], tl.trans(k[i]), even)
        if even.shape[0] == 16:
            odd = tl.dot(q[FIRST + i + 1], tl.trans(k[i + 1]), odd)
        else:
            even = tl.dot(q[FIRST + i + 1], tl.trans(k[i + 1]), even)
    return even, odd


@triton.jit
def scores(
    q, cache_ptr, page_stride, slots, index, PAGE: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """A tile's keys, nothing for scales, its logits (heads, entries), and which are valid.

    Keys are fifteen operands, all but RoPE times 2^-64, as logits are. A chunk's products stand
    before the next one's conversion, so that the compiler mixes the two.
    """
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
    odd = tl.zeros([BLOCK_H, BLOCK_N], tl.float32)
    even = tl.dot(q[14], tl.trans(rope))
    planes0 = byte_planes(words0, _factors(exponents, 0))
    even, odd = _dots(q, planes0, even, odd, 0, 4)
    planes1 = byte_planes(words1, _factors(exponents, 1))
    even, odd = _dots(q, planes1, even, odd, 4, 4)
    planes2 = byte_planes(words2, _factors(exponents, 2))
    even, odd = _dots(q, planes2, even, odd, 8, 4)
    planes3 = half_planes(halves, _last_factor(exponents))
    even, odd = _dots(q, planes3, even, odd, 12, 2)
    return planes0 + planes1 + planes2 + planes3 + (rope,), (), even + odd, valid


@triton.jit
def sums(weights, decay, k, scales, acc):
    """The outputs with those of a tile added, each plane for itself."""
    weights = weights.to(tl.bfloat16)
    summed = ()
    for i in tl.static_range(OPERANDS):
        summed = summed + (tl.dot(weights, k[i], acc[i] * decay[:, None]),)
    return summed


@triton.jit
def nothing(BLOCK_H: tl.constexpr):
    """The outputs before the first key."""
    zero = tl.zeros([BLOCK_H, 32], tl.float32)
    acc = (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
    return acc + (tl.zeros([BLOCK_H, 64], tl.float32),)


@triton.jit
def queries(q_ptr, mask, BLOCK_H: tl.constexpr):
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
def store(out_ptr, acc, inverse, mask, BLOCK_H: tl.constexpr):
    """The outputs, times `inverse`, in the order of dims that a caller knows."""
    wide, narrow = tl.arange(0, 128)[None, :], tl.arange(0, 64)[None, :]
    dtype = out_ptr.dtype.element_ty
    up = inverse * UP
    for i in tl.static_range(3):
        x = join4(acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3], BLOCK_H, 128)
        tl.store(out_ptr + 128 * i + wide, (x * up).to(dtype), mask=mask)
    tl.store(out_ptr + 384 + narrow, (tl.interleave(acc[12], acc[13]) * up).to(dtype), mask=mask)
    tl.store(out_ptr + 448 + narrow, (acc[14] * inverse).to(dtype), mask=mask)
