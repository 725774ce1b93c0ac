# SPDX-License-Identifier: Apache-2.0
"""Logits of the sparse indexer, over gathered keys and over a paged cache.

A logit of query m and key n is the sum over heads h of w[m, h] * max(q[m, h] . k[n], 0), times the
key's scale. The query's own scale, and the softmax's, are in the weights (DeepSeek-V3.2's report,
equation 1; DeepGEMM's `fp8_fp4_mqa_logits`).
"""

import torch

# What a paged cache keeps of a token beside its values: one float32 scale.
SCALE_BYTES = 4


def mqa_logits(
    q: torch.Tensor,
    k: torch.Tensor,
    scales: torch.Tensor,
    weights: torch.Tensor,
    first: torch.Tensor,
    end: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Return the logits (rows, keys) in `dtype`, -inf outside of each row's [first, end).

    `q` (rows, heads, d) and `k` (keys, d), e4m3 or any floating dtype; `scales` (keys,), `weights`
    (rows, heads); `first` and `end` (rows,) int32. Keys out of range may hold anything.
    """
    out = torch.full((q.shape[0], k.shape[0]), -torch.inf, dtype=dtype, device=q.device)
    for row in range(q.shape[0]):
        some = slice(max(int(first[row]), 0), min(int(end[row]), k.shape[0]))
        if some.start < some.stop:
            out[row, some] = _row(q[row], k[some], scales[some], weights[row], dtype)
    return out


def paged_mqa_logits(
    q: torch.Tensor,
    cache: torch.Tensor,
    weights: torch.Tensor,
    lengths: torch.Tensor,
    table: torch.Tensor,
    columns: int,
    *,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Return the logits (requests * next_n, columns) in `dtype`, -inf past each row's length.

    `q` (requests, next_n, heads, d) e4m3; `cache` (pages, page size, d + 4) uint8, of which a page
    is page size * d bytes of values and then page size float32 scales; `weights` (requests *
    next_n, heads); `lengths` (requests, next_n), or (requests,) for the last query token of each,
    the ones before it seeing one key less each. `table` (requests, blocks) int32; entries past a
    length may be anything. A token past the table's width has a logit of -inf.
    """
    requests, next_n, _, dim = q.shape
    size = cache.shape[1]
    out = torch.full((requests * next_n, columns), -torch.inf, dtype=dtype, device=q.device)
    for row in range(requests * next_n):
        request, token = divmod(row, next_n)
        own = lengths.dim() == 2
        length = int(lengths[request, token] if own else lengths[request] - next_n + 1 + token)
        length = min(max(length, 0), columns, table.shape[1] * size)
        if length:
            pages = cache[table[request, : -(-length // size)].long()].flatten(1)
            values = pages[:, : size * dim].contiguous().view(torch.float8_e4m3fn)
            scales = pages[:, size * dim :].contiguous().view(torch.float32)
            out[row, :length] = _row(
                q[request, token],
                values.reshape(-1, dim)[:length],
                scales.reshape(-1)[:length],
                weights[row],
                dtype,
            )
    return out


def _row(
    q: torch.Tensor, k: torch.Tensor, scales: torch.Tensor, w: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    products = (q.to(dtype) @ k.to(dtype).T).clamp(min=0)
    return (w.to(dtype) @ products) * scales.to(dtype)
