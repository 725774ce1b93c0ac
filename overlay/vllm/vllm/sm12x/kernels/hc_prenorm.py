# SPDX-License-Identifier: Apache-2.0
"""HyperConnection's products and sums of squares, DeepGEMM's `tf32_hc_prenorm_gemm`.

Activations are bfloat16, so their products with a float32 matrix are exact in two bfloat16 products
once the matrix is split into two bfloat16 parts, up to 2^-17 of its numbers. That is a sixteenth of
TF32's error at the cost of one TF32 product.
"""

import torch
import triton
import triton.language as tl

from .gemm_tiles import choose_prenorm_tile
from .launch import device_of

# Arguments that a kernel isn't compiled anew for when they become 1 or a multiple of 16.
VARYING = ("rows", "splits", "out_split_stride", "square_stride")


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=["square_ptr"])
def hc_prenorm_kernel(
    x_ptr, fn_ptr, out_ptr, square_ptr,
    x_stride, fn_stride, out_split_stride, out_stride, square_stride, rows, splits,
    DEPTH: tl.constexpr, COLUMNS: tl.constexpr, ROUNDED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of BLOCK_M rows, splits); a split takes its share of blocks of the DEPTH."""
    split = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = row < rows
    # Masked lanes must hold an address that exists too.
    place = tl.where(valid, row, 0).to(tl.int64)
    column = tl.arange(0, ROUNDED)
    real = column < COLUMNS
    blocks: tl.constexpr = DEPTH // BLOCK_K
    each = tl.cdiv(blocks, splits)
    first = tl.minimum(split * each, blocks)
    end = tl.minimum(first + each, blocks)
    inner = tl.arange(0, BLOCK_K)[None, :]
    x_ptr += place[:, None] * x_stride + inner
    fn_ptr += tl.where(real, column, 0)[:, None] * fn_stride + inner
    acc = tl.zeros([ROUNDED, BLOCK_M], tl.float32)
    squares = tl.zeros([BLOCK_M], tl.float32)
    for block in range(first, end):
        x = tl.load(x_ptr + block * BLOCK_K, mask=valid[:, None], other=0.0)
        fn = tl.load(fn_ptr + block * BLOCK_K, mask=real[:, None], other=0.0)
        # The leading half of a float32 is a bfloat16, cut off; the rest is rounded to another.
        bits = fn.to(tl.int32, bitcast=True)
        high = (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
        low = (fn - (bits & -65536).to(tl.float32, bitcast=True)).to(tl.bfloat16)
        acc = tl.dot(low, tl.trans(x), acc)
        acc = tl.dot(high, tl.trans(x), acc)
        wide = x.to(tl.float32)
        squares += tl.sum(wide * wide, 1)
    out_ptr += split.to(tl.int64) * out_split_stride + place[None, :] * out_stride
    tl.store(out_ptr + column[:, None], acc, mask=valid[None, :] & real[:, None])
    tl.store(square_ptr + split.to(tl.int64) * square_stride + place, squares, mask=valid)


def hc_prenorm(x: torch.Tensor, fn: torch.Tensor, out: torch.Tensor, squares: torch.Tensor) -> None:
    """Write x @ fn.T and each row's sum of squares, in as many parts as `out` has.

    `x` (rows, k) bfloat16 and `fn` (n, k) float32, k a multiple of 64; `out` (parts, rows, n) and
    `squares` (parts, rows) float32. The parts of a row add up to its result; one that is left
    without work is 0. `reference.einsum.hc_prenorm` says what is computed. One launch.
    """
    rows, depth = x.shape
    tile = choose_prenorm_tile(rows, depth)
    with device_of(x):
        hc_prenorm_kernel[triton.cdiv(rows, tile.block_rows), out.shape[0]](
            x_ptr=x,
            fn_ptr=fn,
            out_ptr=out,
            square_ptr=squares,
            x_stride=x.stride(0),
            fn_stride=fn.stride(0),
            out_split_stride=out.stride(0),
            out_stride=out.stride(1),
            square_stride=squares.stride(0),
            rows=rows,
            splits=out.shape[0],
            DEPTH=depth,
            COLUMNS=fn.shape[0],
            ROUNDED=max(16, triton.next_power_of_2(fn.shape[0])),
            BLOCK_M=tile.block_rows,
            BLOCK_K=tile.block_depth,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
