# SPDX-License-Identifier: Apache-2.0
"""Grouped product of block-scaled e4m3 tensors, DeepGEMM's `fp8_einsum("bhr,hdr->bhd")`.

DeepSeek V4's output projection: few rows over large weights, so what counts is how fast those are
read. A program takes a tile of one group's outputs, and a share of the summed dim where tiles alone
don't occupy every SM; weights come by asynchronous copies several steps ahead.
"""

import torch
import triton
import triton.language as tl

from .gemm_tiles import EinsumPlan, plan_einsum
from .launch import device_of
from .tiles import describe_device

# Arguments that a kernel isn't compiled anew for when they become 1 or a multiple of 16.
VARYING = (
    "rows", "groups", "splits", "scale_row_stride", "scale_group_stride", "scale_block_stride",
)  # fmt: skip
# Numbers of the summed dim that share a scale, of both tensors; so many rows of b do, too.
GROUP: tl.constexpr = tl.constexpr(128)


@triton.jit
def _power(exponent):
    """The float32 of a UE8M0 byte: its exponent field, but 2^-127, which is subnormal, for 0."""
    return tl.where(exponent == 0, 1 << 22, exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def _scales(scale_ptr, offset, block, block_stride, mask):
    """Scales of `a` for a block of the summed dim: float32, or four UE8M0 bytes in an int32."""
    if scale_ptr.dtype.element_ty == tl.int32:
        words = tl.load(scale_ptr + offset + (block // 4) * block_stride, mask=mask, other=0)
        scales = _power((words >> ((block % 4) * 8)) & 0xFF)
    else:
        scales = tl.load(scale_ptr + offset + block * block_stride, mask=mask, other=0.0)
    return scales


@triton.jit
def _weight_scale(scale_ptr, block, mask):
    """The scale of a block of `b`: float32, or a UE8M0 byte."""
    if scale_ptr.dtype.element_ty == tl.uint8:
        scale = _power(tl.load(scale_ptr + block, mask=mask, other=0).to(tl.int32))
    else:
        scale = tl.load(scale_ptr + block, mask=mask, other=0.0)
    return scale


# Nor may a slice of the scales compile another kernel.
@triton.jit(
    do_not_specialize=VARYING, do_not_specialize_on_alignment=["a_scale_ptr", "b_scale_ptr"]
)
def fp8_einsum_kernel(
    a_ptr, a_scale_ptr, b_ptr, b_scale_ptr, out_ptr, partial_ptr,
    a_row_stride, a_group_stride, scale_row_stride, scale_group_stride, scale_block_stride,
    b_group_stride, b_row_stride, out_row_stride, out_group_stride, rows, groups, splits,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (groups * WIDTH / BLOCK_N, blocks of BLOCK_M rows, splits).

    WIDTH is d and DEPTH is r of `bhr,hdr->bhd`. Without SPLIT it writes `out` (bfloat16); with it,
    each split's sums to `partial` (splits, rows, groups, WIDTH) float32, for `sum_kernel`.
    """
    tiles: tl.constexpr = WIDTH // BLOCK_N
    blocks: tl.constexpr = DEPTH // GROUP
    group = (tl.program_id(0) // tiles).to(tl.int64)
    column = (tl.program_id(0) % tiles) * BLOCK_N
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = row < rows
    # Masked lanes must hold an address that exists too.
    place = tl.where(valid, row, 0).to(tl.int64)
    inner = tl.arange(0, GROUP)[None, :]
    each = tl.cdiv(blocks, splits)
    first = tl.program_id(2) * each
    end = tl.minimum(first + each, blocks)

    a_ptr += group * a_group_stride + place[:, None] * a_row_stride
    columns = (column + tl.arange(0, BLOCK_N)).to(tl.int64)
    b_ptr += group * b_group_stride + columns[:, None] * b_row_stride
    offset = group * scale_group_stride + place * scale_row_stride
    b_scale_ptr += (group * (WIDTH // GROUP) + column // GROUP) * blocks
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    # A block of its own: the interpreter of Triton 3.9 makes integers of a mask and one condition.
    none = row * 0
    real = valid & (first + none < end)
    a_scale = _scales(a_scale_ptr, offset, first, scale_block_stride, real)
    b_scale = _weight_scale(b_scale_ptr, first, first < end)
    for block in range(first, end):
        scale = a_scale * b_scale
        # One step ahead, so that nothing waits for them.
        real = valid & (block + 1 + none < end)
        a_scale = _scales(a_scale_ptr, offset, block + 1, scale_block_stride, real)
        b_scale = _weight_scale(b_scale_ptr, block + 1, block + 1 < end)
        a = tl.load(a_ptr + block * GROUP + inner, mask=valid[:, None], other=0.0)
        b = tl.load(b_ptr + block * GROUP + inner)
        acc += tl.dot(a, tl.trans(b)) * scale[:, None]

    mask = valid[:, None]
    if not SPLIT:
        out_ptr += place[:, None] * out_row_stride + group * out_group_stride + columns[None, :]
        tl.store(out_ptr, acc.to(out_ptr.dtype.element_ty), mask=mask)
    else:
        part = tl.program_id(2).to(tl.int64) * rows + place
        partial_ptr += ((part * groups + group) * WIDTH)[:, None] + columns[None, :]
        tl.store(partial_ptr, acc, mask=mask)


@triton.jit(do_not_specialize=["rows", "groups", "splits"])
def sum_kernel(
    partial_ptr, out_ptr, out_row_stride, out_group_stride, rows, groups, splits,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (rows * groups, WIDTH / BLOCK): the sums of the splits, always in the same order."""
    row = (tl.program_id(0) // groups).to(tl.int64)
    group = tl.program_id(0) % groups
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    partial_ptr += (row * groups + group) * WIDTH + column
    total = tl.load(partial_ptr)
    for _ in range(1, splits):
        partial_ptr += rows.to(tl.int64) * groups * WIDTH
        total += tl.load(partial_ptr)
    out_ptr += row * out_row_stride + group * out_group_stride + column
    tl.store(out_ptr, total.to(out_ptr.dtype.element_ty))


def fp8_einsum(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    out: torch.Tensor,
    *,
    plan: EinsumPlan | None = None,
) -> None:
    """Write sum over r of a[b, h, r] * b[h, d, r], both times their scales, into `out`.

    `a` (rows, groups, r) e4m3, any strides but the last; `a_scale` (rows, groups, r / 128) float32,
    or (rows, groups, r / 512) int32 with four UE8M0 bytes each, any strides. `b` (groups, d, r)
    e4m3; `b_scale` (groups, d / 128, r / 128), contiguous, float32 or UE8M0 bytes as uint8. `out`
    (rows, groups, d) bfloat16, dense rows. d and r are multiples of 128.
    `reference.einsum.fp8_einsum` says what is computed. At most two launches; nothing is read back.
    """
    rows, groups, depth = a.shape
    width = b.shape[1]
    plan = plan or plan_einsum(
        describe_device(a.device), rows=rows, groups=groups, width=width, depth=depth
    )
    partial = None
    if plan.splits > 1:
        partial = a.new_empty((plan.splits, rows, groups, width), dtype=torch.float32)
    with device_of(a):
        _multiply(plan, a, a_scale, b, b_scale, out, partial)
        if partial is not None:
            _add_up(partial, out)


def _multiply(
    plan: EinsumPlan,
    a: torch.Tensor,
    a_scale: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    out: torch.Tensor,
    partial: torch.Tensor | None,
) -> None:
    rows, groups, depth = a.shape
    width, tile = b.shape[1], plan.tile
    grid = (groups * (width // tile.block_columns), triton.cdiv(rows, tile.block_rows), plan.splits)
    fp8_einsum_kernel[grid](
        a_ptr=a,
        a_scale_ptr=a_scale,
        b_ptr=b,
        b_scale_ptr=b_scale,
        out_ptr=out,
        partial_ptr=partial,
        a_row_stride=a.stride(0),
        a_group_stride=a.stride(1),
        scale_row_stride=a_scale.stride(0),
        scale_group_stride=a_scale.stride(1),
        scale_block_stride=a_scale.stride(2),
        b_group_stride=b.stride(0),
        b_row_stride=b.stride(1),
        out_row_stride=out.stride(0),
        out_group_stride=out.stride(1),
        rows=rows,
        groups=groups,
        splits=plan.splits,
        WIDTH=width,
        DEPTH=depth,
        SPLIT=partial is not None,
        BLOCK_M=tile.block_rows,
        BLOCK_N=tile.block_columns,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def _add_up(partial: torch.Tensor, out: torch.Tensor) -> None:
    splits, rows, groups, width = partial.shape
    sum_kernel[rows * groups, width // 128](
        partial_ptr=partial,
        out_ptr=out,
        out_row_stride=out.stride(0),
        out_group_stride=out.stride(1),
        rows=rows,
        groups=groups,
        splits=splits,
        WIDTH=width,
        BLOCK=128,
        num_warps=1,
    )
