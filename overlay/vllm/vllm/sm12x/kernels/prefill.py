# SPDX-License-Identifier: Apache-2.0
"""Sparse prefill over a bfloat16 workspace of keys, as FlashMLA's `flash_mla_sparse_fwd` has it."""

import torch
import triton
import triton.language as tl

from .launch import device_of
from .softmax import LN2, LOG2E, VARYING, add, count, divisor, fold, natural_lse, no_sum, pick
from .tiles import Kernel, describe_device, plan, read_limits

D_V = 512


@triton.jit
def _chunks(row_ptr, mask, CHUNKS: tl.constexpr):
    """Each row's chunks of 64 numbers: eight threads fetch one, so a thread follows few rows."""
    pointers = row_ptr[:, None] + tl.arange(0, 64)[None, :]
    chunks = (tl.load(pointers, mask=mask, other=0.0),)
    for i in tl.static_range(1, CHUNKS):
        chunks = chunks + (tl.load(pointers + 64 * i, mask=mask, other=0.0),)
    return chunks


# Nor may a slice of the lengths compile another kernel.
@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=["length_ptr"])
def prefill_kernel(
    q_ptr, kv_ptr, index_ptr, length_ptr, sink_ptr, out_ptr, max_ptr, lse_ptr,
    q_row_stride, q_head_stride, kv_stride, keys, index_stride, width,
    out_row_stride, out_head_stride, max_row_stride, lse_row_stride, heads, scale,
    CHUNKS: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (rows * head blocks). `scale` is softmax scale * log2(e). CHUNKS is width / 64."""
    blocks = tl.cdiv(heads, BLOCK_H)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    head = (tl.program_id(0) % blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    valid_head = head < heads
    mask = valid_head[:, None]
    q = _chunks(q_ptr + row * q_row_stride + head * q_head_stride, mask, CHUNKS)
    index_ptr += row * index_stride
    counted = count(length_ptr, row, width)
    m = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = no_sum(BLOCK_H == 16, BLOCK_H, BLOCK_N)
    zero = tl.zeros([BLOCK_H, 64], tl.float32)
    acc = (zero, zero, zero, zero, zero, zero, zero, zero)
    upcoming = pick(index_ptr, 0, counted, BLOCK_N)
    # With RoPE and 32 heads no register is left to keep an address in.
    for first in tl.range(0, counted, BLOCK_N, disable_licm=BLOCK_H == 32 and CHUNKS == 9):
        index = upcoming
        # One tile ahead, so that a tile's copies don't wait for its own indices.
        upcoming = pick(index_ptr, first + BLOCK_N, counted, BLOCK_N)
        valid = (index >= 0) & (index < keys)
        # Masked lanes must hold an address that exists too.
        place = tl.where(valid, index, 0).to(tl.int64)
        k = _chunks(kv_ptr + place * kv_stride, valid[:, None], CHUNKS)
        # Two sums in turn: one would wait for itself.
        even = tl.dot(q[0], tl.trans(k[0]))
        odd = tl.dot(q[1], tl.trans(k[1]))
        for i in tl.static_range(2, CHUNKS, 2):
            even = tl.dot(q[i], tl.trans(k[i]), even)
            if i + 1 < CHUNKS:
                odd = tl.dot(q[i + 1], tl.trans(k[i + 1]), odd)
        weights, decay, m = fold((even + odd) * scale, valid, m)
        total = add(total, weights, decay, BLOCK_H == 16)
        weights = weights.to(tl.bfloat16)
        summed = ()
        for i in tl.static_range(8):
            summed = summed + (tl.dot(weights, k[i], acc[i] * decay[:, None]),)
        acc = summed

    if BLOCK_H == 16:
        total = tl.sum(total, 1)
    inverse = divisor(m, total, sink_ptr, head, valid_head)[:, None]
    out_ptr += row * out_row_stride + (head * out_head_stride)[:, None] + tl.arange(0, 64)[None, :]
    for i in tl.static_range(8):
        x = (acc[i] * inverse).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + 64 * i, x, mask=mask)
    tl.store(max_ptr + row * max_row_stride + head, m * LN2, mask=valid_head)
    tl.store(lse_ptr + row * lse_row_stride + head, natural_lse(m, total), mask=valid_head)


def sparse_prefill(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    *,
    scale: float,
    sink: torch.Tensor | None,
    lengths: torch.Tensor | None,
    out: torch.Tensor,
    max_logits: torch.Tensor,
    lse: torch.Tensor,
) -> None:
    """Write attention over picked rows of `kv` into `out`, `max_logits` and `lse`.

    `q` (rows, heads, d) and `kv` (n, d) bfloat16, d being 512 or 576; `indices` (rows, k) int32 or
    int64 are rows of `kv`; `lengths` (rows,) or None, `sink` (heads,) float32 or None. `out` (rows,
    heads, 512) bfloat16, `max_logits` and `lse` (rows, heads) float32 are written whole; any
    strides but that the last dimension is dense. `reference.prefill.sparse_prefill` says what is
    computed. One launch. ValueError for another width.
    """
    rows, heads, width = q.shape
    if width not in (D_V, D_V + 64) or kv.shape[1] != width:
        raise ValueError(f"q and kv are {width} and {kv.shape[1]} wide; expected 512 or 576, alike")
    q = q if q.stride(2) == 1 else q.contiguous()
    kv = kv if kv.stride(1) == 1 else kv.contiguous()
    indices = indices if indices.stride(1) == 1 else indices.contiguous()
    kernel = Kernel.PREFILL if width == D_V else Kernel.PREFILL_ROPE
    chosen = plan(
        kernel, describe_device(q.device), rows=rows, heads=heads,
        widths=[indices.shape[1]], limits=read_limits(),
    )  # fmt: skip
    tile = chosen.tile
    with device_of(q):
        prefill_kernel[(rows * chosen.head_blocks,)](
            q_ptr=q,
            kv_ptr=kv,
            index_ptr=indices,
            length_ptr=lengths,
            sink_ptr=sink,
            out_ptr=out,
            max_ptr=max_logits,
            lse_ptr=lse,
            q_row_stride=q.stride(0),
            q_head_stride=q.stride(1),
            kv_stride=kv.stride(0),
            keys=kv.shape[0],
            index_stride=indices.stride(0),
            width=indices.shape[1],
            out_row_stride=out.stride(0),
            out_head_stride=out.stride(1),
            max_row_stride=max_logits.stride(0),
            lse_row_stride=lse.stride(0),
            heads=heads,
            scale=scale * LOG2E.value,
            CHUNKS=width // 64,
            BLOCK_H=tile.block_heads,
            BLOCK_N=tile.block_entries,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
