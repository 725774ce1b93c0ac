# SPDX-License-Identifier: Apache-2.0
"""A set of keys that sparse attention picks from: a paged cache and the picks of each query row."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Scope:
    """One scope; a query row's softmax goes over all the scopes it is given.

    `cache` has a layout of `layouts`: (pages, page size, 584 or 656) uint8. `indices` (rows, k),
    int32 or int64, are global slots, page * page size + place; one that is negative or too large
    doesn't count, wherever it stands. `lengths` (rows,) says how many of the leftmost indices
    count; what is right of them is stale memory. None means all.
    """

    cache: torch.Tensor
    indices: torch.Tensor
    lengths: torch.Tensor | None = None
