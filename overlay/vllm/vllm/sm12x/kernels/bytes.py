# SPDX-License-Identifier: Apache-2.0
"""From the bytes of an fp8_ds_mla cache to bfloat16 operands, exactly and four at a time.

An e4m3 byte is `s eeee mmm`. Its exponent and mantissa moved four bits up are those of a bfloat16,
less the difference of the two exponent biases: the number times 2^-120, subnormals included. So
two shifts, masks and one packed multiplication turn a word of four bytes into four bfloat16s.
The code for NaN reads as 480: looking for it costs 17 % more instructions, and three a word, a
compare by carry, would still be 7 %. A key that is NaN as a whole shows it by its RoPE values.

The words of a chunk give one operand a byte position, its *planes*: plane b holds dims b, b + 4,
b + 8, ... of the chunk. A sum over dims doesn't mind their order, so queries are split into planes
once, outputs are joined once, and keys are never shuffled. Planes aren't joined into one wide
operand, because Triton picks a layout for a joined operand that tensor cores can't be fed from
with ldmatrix, and keeps a second copy of it in shared memory.
"""

import triton
import triton.language as tl

# V4's values are held 2^-64 too small: 2^120 and a scale of 2^15 don't fit in one bfloat16.
DOWN: tl.constexpr = tl.constexpr(2.0**-64)
UP: tl.constexpr = tl.constexpr(2.0**64)


@triton.jit
def byte_planes(words, factor):
    """Planes 0 to 3 of int32 `words` as bfloat16, times 2^-120, times the bfloat16 `factor`."""
    even = ((words << 8) & -0x7FFF8000) | ((words << 4) & 0x07F007F0)
    odd = (words & -0x7FFF8000) | ((words >> 4) & 0x07F007F0)
    return (
        even.to(tl.int16).to(tl.bfloat16, bitcast=True) * factor,
        odd.to(tl.int16).to(tl.bfloat16, bitcast=True) * factor,
        (even >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True) * factor,
        (odd >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True) * factor,
    )


@triton.jit
def half_planes(halves, factor):
    """The two planes of int16 `halves`: as `byte_planes`, for a chunk too narrow for words."""
    low = ((halves << 8) & -0x8000) | ((halves << 4) & 0x07F0)
    high = (halves & -0x8000) | ((halves >> 4) & 0x07F0)
    return (
        low.to(tl.int16).to(tl.bfloat16, bitcast=True) * factor,
        high.to(tl.int16).to(tl.bfloat16, bitcast=True) * factor,
    )


@triton.jit
def exponent_factor(exponents, GROUP: tl.constexpr):
    """The factor of one of the eight UE8M0 bytes in int64 `exponents`: 2^120 * scale * 2^-64.

    Bytes from 199 on are out of range and give infinity, so that they are seen in the output.
    """
    exponent = ((exponents >> (8 * GROUP)) & 0xFF).to(tl.int32)
    return (tl.minimum(exponent + 56, 255) << 7).to(tl.int16)


@triton.jit
def split4(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The planes 0 to 3 of `x` (ROWS, COLUMNS)."""
    low, high = tl.split(tl.reshape(x, [ROWS, COLUMNS // 4, 2, 2]))
    plane0, plane2 = tl.split(low)
    plane1, plane3 = tl.split(high)
    return plane0, plane1, plane2, plane3


@triton.jit
def split2(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The even and the odd columns of `x` (ROWS, COLUMNS)."""
    return tl.split(tl.reshape(x, [ROWS, COLUMNS // 2, 2]))


@triton.jit
def join4(plane0, plane1, plane2, plane3, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The inverse of `split4`."""
    x = tl.join(tl.join(plane0, plane2), tl.join(plane1, plane3))
    return tl.reshape(x, [ROWS, COLUMNS])
