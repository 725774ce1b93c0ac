# SPDX-License-Identifier: Apache-2.0
"""Indexer logits of prompts over gathered e4m3 keys, as DeepGEMM's `fp8_fp4_mqa_logits` has them.

A program keeps a tile of keys and goes through the queries of its block, so a key is fetched once
for all of them. Query and key stay e4m3: where the compiler has FP8 matrix instructions for a
device, they are used.
"""

import torch
import triton
import triton.language as tl

from .launch import device_of
from .logits_tiles import choose_prompt_tile, rounded_heads
from .tiles import describe_device

# Arguments that a kernel isn't compiled anew for when they become 1 or a multiple of 16.
VARYING = ("rows", "keys", "heads", "out_stride")


@triton.jit
def score(k, q, weights):
    """One logit a key: the heads' dot products, none below 0, times their weights, summed.

    `k` (keys, d) and `q` (heads, d) e4m3; `weights` (heads,) float32, 0 for a padded head.
    """
    products = tl.dot(k, tl.trans(q))
    return tl.sum(tl.maximum(products, 0.0) * weights[None, :], 1)


@triton.jit
def load_query(q_ptr, weight_ptr, q_head_stride, heads, HEADS: tl.constexpr, DIM: tl.constexpr):
    """A query's heads (HEADS, DIM) and their weights (HEADS,); 0 from `heads` on."""
    head = tl.arange(0, HEADS)
    valid = head < heads
    # Masked lanes must hold an address that exists too.
    place = tl.where(valid, head, 0) * q_head_stride
    q = tl.load(q_ptr + place[:, None] + tl.arange(0, DIM)[None, :], mask=valid[:, None], other=0.0)
    return q, tl.load(weight_ptr + tl.where(valid, head, 0), mask=valid, other=0.0)


# Chunks of a prompt start anywhere, so pointers to their parts may be of any alignment.
@triton.jit(
    do_not_specialize=VARYING,
    do_not_specialize_on_alignment=["scale_ptr", "weight_ptr", "first_ptr", "end_ptr"],
)
def mqa_logits_kernel(
    q_ptr, k_ptr, scale_ptr, weight_ptr, first_ptr, end_ptr, out_ptr,
    q_row_stride, q_head_stride, k_stride, weight_stride, out_stride, rows, keys, heads,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of BLOCK_N keys, blocks of BLOCK_M rows). Writes a row's [first, end) alone."""
    row_first = tl.program_id(1) * BLOCK_M
    key_first = tl.program_id(0).to(tl.int64) * BLOCK_N
    # Whose ranges reach into this tile of keys?
    row = row_first + tl.arange(0, BLOCK_M)
    there = row < rows
    first = tl.load(first_ptr + tl.minimum(row, rows - 1), mask=there, other=2147483647)
    end = tl.load(end_ptr + tl.minimum(row, rows - 1), mask=there, other=0)
    wanted = (first < end) & (end > key_first) & (first < key_first + BLOCK_N)
    if tl.max(wanted.to(tl.int32), 0) == 0:
        return
    key = key_first + tl.arange(0, BLOCK_N)
    exists = key < keys
    place = tl.minimum(key, keys - 1)
    columns = tl.arange(0, DIM)[None, :]
    k = tl.load(k_ptr + place[:, None] * k_stride + columns, mask=exists[:, None], other=0.0)
    scale = tl.load(scale_ptr + place, mask=exists, other=0.0)
    for i in range(tl.minimum(BLOCK_M, rows - row_first)):
        wide = row_first.to(tl.int64) + i
        q, weights = load_query(
            q_ptr + wide * q_row_stride, weight_ptr + wide * weight_stride, q_head_stride, heads,
            HEADS, DIM,
        )  # fmt: skip
        logits = score(k, q, weights) * scale
        inside = (key >= tl.load(first_ptr + wide)) & (key < tl.load(end_ptr + wide)) & exists
        tl.store(out_ptr + wide * out_stride + place, logits, mask=inside)


def mqa_logits(
    q: torch.Tensor,
    k: torch.Tensor,
    scales: torch.Tensor,
    weights: torch.Tensor,
    first: torch.Tensor,
    end: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Write the logits of each row's keys [first, end) into `out`, and nothing else of it.

    `q` (rows, heads, d) and `k` (keys, d) e4m3, d a power of two from 32 on; `scales` (keys,),
    `weights` (rows, heads) and `out` (rows, keys) float32; `first` and `end` (rows,) int32.
    `reference.logits.mqa_logits` says what is computed. One launch; nothing is read back.
    """
    rows, heads, dim = q.shape
    tile = choose_prompt_tile(describe_device(q.device).family, heads, rows)
    grid = (triton.cdiv(k.shape[0], tile.block_keys), triton.cdiv(rows, tile.block_rows))
    with device_of(q):
        mqa_logits_kernel[grid](
            q_ptr=q,
            k_ptr=k,
            scale_ptr=scales,
            weight_ptr=weights,
            first_ptr=first,
            end_ptr=end,
            out_ptr=out,
            q_row_stride=q.stride(0),
            q_head_stride=q.stride(1),
            k_stride=k.stride(0),
            weight_stride=weights.stride(0),
            out_stride=out.stride(0),
            rows=rows,
            keys=k.shape[0],
            heads=heads,
            HEADS=rounded_heads(heads),
            DIM=dim,
            BLOCK_M=tile.block_rows,
            BLOCK_N=tile.block_keys,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
