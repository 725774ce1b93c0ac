# SPDX-License-Identifier: Apache-2.0
"""Contexts that ranks share (decode context parallelism): one rank's part, ready to be merged.

vLLM gathers the queries' heads of all ranks, each rank attends for them over the keys that it
holds, and vLLM merges outputs by their LSE: a rank with none of a row's keys gives an output of 0
and an LSE of -inf. The indexer's picks are places in the whole context. Keys go to the ranks in
turns of `cp_kv_cache_interleave_size`, and a rank has its own one behind the other in its pages.
"""

from typing import Any

import torch
from vllm.v1.attention.backends.mla import sparse_utils

# From v0.25 on; older indexers pick from what their own rank holds as if it were everything.
SHARES = hasattr(sparse_utils, "triton_filter_and_convert_dcp_index")


def local_slots(
    picks: torch.Tensor, metadata: Any, config: Any, *, rank: int, page: int, **strides: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return slots (rows, k) of those `picks` that this rank holds, and their counts (rows,).

    `picks` (rows, k) int32 are places in the contexts of the rows' requests, -1 where there is
    none. Of each row of slots the leftmost count, the others are -1; both are int32. `config` is
    vLLM's of parallelism, `page` the tokens of a page of the cache, `strides` what an older vLLM
    has no argument for.
    """
    # Disaggregated serving settles it after the layers are made; newer metadata has it.
    turn = getattr(metadata, "cp_kv_cache_interleave_size", config.cp_kv_cache_interleave_size)
    rows, width = picks.shape
    slots, counts = sparse_utils.triton_filter_and_convert_dcp_index(
        metadata.req_id_per_token[:rows],
        metadata.block_table,
        picks,
        dcp_size=config.decode_context_parallel_size,
        dcp_rank=rank,
        cp_kv_cache_interleave_size=turn,
        BLOCK_SIZE=page,
        NUM_TOPK_TOKENS=width,
        # A row in one piece, where that is possible: pieces race for their places in it.
        BLOCK_N=width if width & (width - 1) == 0 else 128,
        return_valid_counts=True,
        **strides,
    )
    return slots, counts


def drop_empty(lse: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Give rows without keys of this rank, (rows,) `counts` of 0, an LSE of -inf, in place."""
    return lse.masked_fill_((counts == 0).unsqueeze(1), float("-inf"))


class OwnSinks:
    """The sinks of this rank's own heads among those of all ranks.

    Each head's sink is counted by the rank that the head is from, and there once: as a key without
    a value, in the output and in the LSE. Other ranks have -inf in its place.
    """

    def __init__(self, sinks: torch.Tensor, *, rank: int, ranks: int) -> None:
        heads = len(sinks)
        self.sinks = sinks
        self.gathered = sinks.new_full((heads * ranks,), float("-inf"))
        self._own = slice(rank * heads, (rank + 1) * heads)

    def current(self) -> torch.Tensor:
        """Return (heads of all ranks,) float32. Weights may have been loaded since it was made."""
        self.gathered[self._own].copy_(self.sinks)
        return self.gathered

    def count(self, lse: torch.Tensor) -> torch.Tensor:
        """Return LSEs (rows, heads of all ranks), natural logarithms, with the sinks in them."""
        return torch.logaddexp(lse, self.gathered)
