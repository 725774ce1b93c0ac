# SPDX-License-Identifier: Apache-2.0
"""Indexer logits of decode steps straight from the paged cache, DeepGEMM's `paged_mqa_logits`.

A page of B tokens holds B rows of e4m3 values, then B float32 scales. The tiled kernel takes a
share of a request's pages and all of its query tokens, so a page is fetched once for all of them,
by asynchronous copies that run a tile ahead. The simple one takes one tile of one query token.
"""

import torch
import triton
import triton.language as tl

from .launch import device_of
from .logits_tiles import choose_decode_tile, rounded_heads, splits_of
from .mqa_logits import load_query, score
from .tiles import describe_device

# Arguments that a kernel isn't compiled anew for when they become 1 or a multiple of 16.
VARYING = (
    "blocks", "pages", "columns", "heads", "next_n", "splits", "length_stride", "table_stride",
    "out_stride",
)  # fmt: skip
# Query tokens of a program; their operands stay in shared memory beside two tiles of keys.
MOST_TOKENS = 2


@triton.jit
def _context(length_ptr, token, next_n, columns, OWN: tl.constexpr):
    """How many tokens a query sees: its own number, or a request's last one's less those after."""
    length = tl.load(length_ptr + token) if OWN else tl.load(length_ptr) - next_n + 1 + token
    return tl.minimum(tl.maximum(length, 0), columns)


@triton.jit
def _page(table_ptr, tile, blocks, pages, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """The page that a tile lies in; what the table holds past its width or for no page isn't used.

    A wrong entry reads a page that exists instead of an address that doesn't.
    """
    place = tile * BLOCK_N // PAGE
    page = tl.load(table_ptr + tl.minimum(place, blocks - 1), mask=place < blocks, other=0)
    return tl.minimum(tl.maximum(page, 0), pages - 1).to(tl.int64)


@triton.jit
def _known(logits, position, blocks, PAGE: tl.constexpr):
    """The logits of tokens that the table has a page for, -inf for those past its width."""
    return tl.where(position < blocks * PAGE, logits, float("-inf"))


@triton.jit
def _keys(
    cache_ptr, page, page_stride, tile, last, DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """A tile's keys (BLOCK_N, DIM) e4m3 and scales (BLOCK_N,), 0 where no query looks."""
    inner = (tile * BLOCK_N) % PAGE + tl.arange(0, BLOCK_N)
    valid = tile * BLOCK_N + tl.arange(0, BLOCK_N) < last
    page_ptr = cache_ptr + page * page_stride
    values = page_ptr.to(tl.pointer_type(tl.float8e4nv)) + inner[:, None] * DIM
    k = tl.load(values + tl.arange(0, DIM)[None, :], mask=valid[:, None], other=0.0)
    scales = (page_ptr + PAGE * DIM).to(tl.pointer_type(tl.float32))
    return k, tl.load(scales + inner, mask=valid, other=0.0)


# Nor may a slice of lengths or weights compile another kernel.
@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=["length_ptr", "weight_ptr"])
def tiled_kernel(
    q_ptr, cache_ptr, weight_ptr, length_ptr, table_ptr, out_ptr,
    q_batch_stride, q_token_stride, q_head_stride, page_stride, weight_stride, length_stride,
    table_stride, out_stride, blocks, pages, columns, heads, next_n, splits,
    TOKENS: tl.constexpr, OWN: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (requests, splits, groups of TOKENS): tiles split, split + splits, ... of a request."""
    request, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    table_ptr += request * table_stride
    length_ptr += request * length_stride
    q_ptr += request * q_batch_stride
    last = 0
    seen, q, weights = (), (), ()
    for i in tl.static_range(TOKENS):
        token = tl.program_id(2) * TOKENS + i
        # What is too much of the last group sees nothing.
        real = tl.minimum(token, next_n - 1)
        context = _context(length_ptr, real, next_n, columns, OWN)
        seen = seen + (tl.where(token < next_n, context, 0),)
        last = tl.maximum(last, seen[i])
        one, weight = load_query(
            q_ptr + real.to(tl.int64) * q_token_stride,
            weight_ptr + (request * next_n + real) * weight_stride, q_head_stride, heads,
            HEADS, DIM,
        )  # fmt: skip
        q, weights = q + (one,), weights + (weight,)
    row = request * next_n + tl.program_id(2) * TOKENS
    upcoming = _page(table_ptr, split, blocks, pages, PAGE, BLOCK_N)
    for tile in range(split, tl.cdiv(last, BLOCK_N), splits):
        page = upcoming
        # One tile ahead, so that a tile's copies don't wait for its page.
        upcoming = _page(table_ptr, tile + splits, blocks, pages, PAGE, BLOCK_N)
        k, scale = _keys(cache_ptr, page, page_stride, tile, last, DIM, PAGE, BLOCK_N)
        position = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        for i in tl.static_range(TOKENS):
            logits = _known(score(k, q[i], weights[i]) * scale, position, blocks, PAGE)
            tl.store(out_ptr + (row + i) * out_stride + position, logits, mask=position < seen[i])


@triton.jit(do_not_specialize=VARYING, do_not_specialize_on_alignment=["length_ptr", "weight_ptr"])
def simple_kernel(
    q_ptr, cache_ptr, weight_ptr, length_ptr, table_ptr, out_ptr,
    q_batch_stride, q_token_stride, q_head_stride, page_stride, weight_stride, length_stride,
    table_stride, out_stride, blocks, pages, columns, heads, next_n,
    OWN: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Grid (requests * next_n, tiles of the longest context): no loop and nothing shared."""
    row = tl.program_id(0)
    tile = tl.program_id(1)
    request, token = (row // next_n).to(tl.int64), row % next_n
    length_ptr += request * length_stride
    seen = _context(length_ptr, token, next_n, columns, OWN)
    if tile * BLOCK_N >= seen:
        return
    page = _page(table_ptr + request * table_stride, tile, blocks, pages, PAGE, BLOCK_N)
    k, scale = _keys(cache_ptr, page, page_stride, tile, seen, DIM, PAGE, BLOCK_N)
    wide = row.to(tl.int64)
    q, weights = load_query(
        q_ptr + request * q_batch_stride + token * q_token_stride,
        weight_ptr + wide * weight_stride, q_head_stride, heads, HEADS, DIM,
    )  # fmt: skip
    position = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    logits = _known(score(k, q, weights) * scale, position, blocks, PAGE)
    tl.store(out_ptr + wide * out_stride + position, logits, mask=position < seen)


def paged_mqa_logits(
    q: torch.Tensor,
    cache: torch.Tensor,
    weights: torch.Tensor,
    lengths: torch.Tensor,
    table: torch.Tensor,
    out: torch.Tensor,
    *,
    tiled: bool = True,
) -> None:
    """Write the logits of every query token over its request's pages into `out`.

    `q` (requests, next_n, heads, d) e4m3, d a power of two from 32 on; `cache` (pages, page size,
    d + 4) uint8 by its page stride, a page size being a multiple of 16; `weights` (requests *
    next_n, heads) float32; `lengths` int32: (requests, next_n) says how many tokens each query
    sees, (requests,) how many the last one does, each before it one less. `table` (requests,
    blocks) int32: what lies past a request's length is never used. `out` (requests * next_n,
    columns) float32; of a row nothing past its length is written, no length reaches past `columns`,
    and what a length reaches past the table's width is -inf.
    `reference.logits.paged_mqa_logits` says what is computed. One launch, whose grid follows from
    shapes; nothing is read back.
    """
    requests, next_n, heads, dim = q.shape
    pages, page_size, _ = cache.shape
    device = describe_device(q.device)
    tile = choose_decode_tile(device.family, heads, page_size)
    blocks, columns = table.shape[1], out.shape[1]
    most = triton.cdiv(columns, tile.block_keys)
    if not most:
        return
    arguments = {
        "q_ptr": q,
        "cache_ptr": cache,
        "weight_ptr": weights,
        "length_ptr": lengths,
        "table_ptr": table,
        "out_ptr": out,
        "q_batch_stride": q.stride(0),
        "q_token_stride": q.stride(1),
        "q_head_stride": q.stride(2),
        # The stride of a dimension of one means nothing and might not be a multiple of 16.
        "page_stride": cache.stride(0) if pages > 1 else 0,
        "weight_stride": weights.stride(0),
        "length_stride": lengths.stride(0),
        "table_stride": table.stride(0),
        "out_stride": out.stride(0),
        "blocks": blocks,
        "pages": pages,
        "columns": columns,
        "heads": heads,
        "next_n": next_n,
        "OWN": lengths.dim() == 2,
        "HEADS": rounded_heads(heads),
        "DIM": dim,
        "PAGE": page_size,
        "BLOCK_N": tile.block_keys,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    with device_of(q):
        if tiled:
            tokens = min(next_n, MOST_TOKENS)
            groups = triton.cdiv(next_n, tokens)
            splits = splits_of(device, requests * groups, most)
            tiled_kernel[(requests, splits, groups)](**arguments, splits=splits, TOKENS=tokens)
        else:
            simple_kernel[(requests * next_n, most)](**arguments)
