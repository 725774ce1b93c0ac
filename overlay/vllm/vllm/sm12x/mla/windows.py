# SPDX-License-Identifier: Apache-2.0
"""The sliding window of every token of a prompt, as slots of the packed cache.

From v0.24 on vLLM's metadata has them on SM12x; before, it has those of decode steps alone.
"""

from typing import Any

import torch

INDICES, LENGTHS = "prefill_swa_indices", "prefill_swa_lens"


def add_windows(metadata: Any, positions: torch.Tensor, window: int) -> None:
    """Give a step's metadata the windows of its prompts' tokens unless it has them.

    `positions` (tokens or more,) are those of the prompts' tokens, which come after the decodes'.
    The first layer of a step does it for all; no count is read back from the device.
    """
    if getattr(metadata, INDICES, None) is not None:
        return
    first, count = metadata.num_decode_tokens, metadata.num_prefill_tokens
    tokens = slice(first, first + count)
    indices, lengths = windows(
        positions[:count],
        metadata.token_to_req_indices[tokens],
        metadata.block_table,
        metadata.block_size,
        window,
    )
    setattr(metadata, INDICES, indices.unsqueeze(1))
    setattr(metadata, LENGTHS, lengths * metadata.is_valid_token[tokens])


def windows(
    positions: torch.Tensor,
    requests: torch.Tensor,
    block_table: torch.Tensor,
    block_size: int,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return slots (tokens, window), -1 behind a last one, and counts (tokens,), both int32.

    A token at position p sees [max(p - window + 1, 0), p] of its request, whose pages `block_table`
    (requests, blocks) int32 names. `positions` and `requests` (tokens,), of any integer dtype.
    """
    last = positions.long().unsqueeze(1)
    place = (last - window + 1).clamp(min=0) + torch.arange(window, device=positions.device)
    seen = place <= last
    # What isn't seen must have a place in the table, too.
    pages = block_table[requests.long().unsqueeze(1), place.minimum(last) // block_size]
    slots = pages * block_size + (place % block_size).int()
    return slots.masked_fill(~seen, -1).int(), seen.sum(1, dtype=torch.int32)
