# SPDX-License-Identifier: Apache-2.0
"""Sparse attention over paged fp8_ds_mla caches, as FlashMLA's `flash_mla_with_kvcache` does it."""

from collections.abc import Sequence

import torch

from ..layouts import check_cache, unpack
from ..layouts.scope import Scope
from .softmax import attend, counted

__all__ = ["Scope", "sparse_decode"]


def sparse_decode(
    q: torch.Tensor,
    scopes: Sequence[Scope],
    *,
    scale: float,
    sink: torch.Tensor | None = None,
    d_v: int = 512,
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output (rows, heads, d_v) and the LSE (rows, heads), both computed in `dtype`.

    `q` is (rows, heads, d_qk), any floating dtype; a d_qk smaller than the layout's head_dim reads
    only the leading part of each key, as models without RoPE need. One softmax goes over the keys
    of all `scopes`. `softmax.attend` gives the formula, the sink's meaning and what a row without
    keys returns. ValueError for a cache that has neither layout.
    """
    for number, scope in enumerate(scopes):
        check_cache(scope.cache, f"scopes[{number}].cache")
    rows, heads, _ = q.shape
    out = torch.empty(rows, heads, d_v, dtype=dtype, device=q.device)
    lse = torch.empty(rows, heads, dtype=dtype, device=q.device)
    for row in range(rows):
        kv = torch.cat([_keys(scope, row, dtype) for scope in scopes])
        out[row], _, lse[row] = attend(q[row].to(dtype), kv, scale=scale, sink=sink, d_v=d_v)
    return out, lse


def _keys(scope: Scope, row: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the keys (n, head_dim) that a row attends to; no other slot is read."""
    length = None if scope.lengths is None else int(scope.lengths[row])
    limit = scope.cache.shape[0] * scope.cache.shape[1]
    return unpack(scope.cache, counted(scope.indices[row], length, limit), dtype=dtype)
