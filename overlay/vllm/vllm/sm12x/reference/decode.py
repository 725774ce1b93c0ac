# SPDX-License-Identifier: Apache-2.0
"""Sparse attention over paged fp8_ds_mla caches, as FlashMLA's `flash_mla_with_kvcache` does it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..layouts import check_cache, unpack
from .softmax import attend, counted


@dataclass(frozen=True, kw_only=True)
class Scope:
    """One set of keys that every query row picks from.

    `cache` has a layout of `layouts`: (pages, page size, 584 or 656) uint8. `indices` (rows, k),
    int32 or int64, are global slots, page * page size + place. `lengths` (rows,) says how many of
    the leftmost indices count; None means all.
    """

    cache: torch.Tensor
    indices: torch.Tensor
    lengths: torch.Tensor | None = None

    def keys(self, row: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the keys (n, head_dim) that a row attends to; no other slot is read."""
        length = None if self.lengths is None else int(self.lengths[row])
        slots = counted(self.indices[row], length, self.cache.shape[0] * self.cache.shape[1])
        return unpack(self.cache, slots, dtype=dtype)


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
        kv = torch.cat([scope.keys(row, dtype) for scope in scopes])
        out[row], _, lse[row] = attend(q[row].to(dtype), kv, scale=scale, sink=sink, d_v=d_v)
    return out, lse
