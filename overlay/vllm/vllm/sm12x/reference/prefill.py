# SPDX-License-Identifier: Apache-2.0
"""Sparse attention over a workspace of keys: what FlashMLA's `flash_mla_sparse_fwd` computes."""

import torch

from .softmax import attend, counted


def sparse_prefill(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    *,
    scale: float,
    d_v: int = 512,
    sink: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return output (rows, heads, d_v), largest logits and LSE (rows, heads), all in `dtype`.

    `q` is (rows, heads, d_qk), `kv` (n, d_qk), both of any floating dtype; `indices` (rows, k),
    int32 or int64, are rows of `kv`, and one that is negative or too large doesn't count. Only the
    leftmost `lengths[row]` do, each query row with a length of its own. `softmax.attend` gives the
    formula, the sink's meaning and what a row without keys returns.
    """
    rows, heads, _ = q.shape
    out = torch.empty(rows, heads, d_v, dtype=dtype, device=q.device)
    max_logits = torch.empty(rows, heads, dtype=dtype, device=q.device)
    lse = torch.empty_like(max_logits)
    for row in range(rows):
        length = None if lengths is None else int(lengths[row])
        keys = kv[counted(indices[row], length, kv.shape[0]).long()].to(dtype)
        out[row], max_logits[row], lse[row] = attend(
            q[row].to(dtype), keys, scale=scale, sink=sink, d_v=d_v
        )
    return out, max_logits, lse
