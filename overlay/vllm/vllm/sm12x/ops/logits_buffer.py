# SPDX-License-Identifier: Apache-2.0
"""Where the indexer's logits are written: into one buffer that vLLM's memory profile has seen.

Every chunk of a prompt has other shapes. A tensor of its own for each would leave the allocator
with as many pieces, none of which fits the next. So a profile run reserves the buffer, calls get
views of its beginning, and a captured graph finds it where it was. What was returned is good until
the next call: vLLM picks from the logits of a call before it makes another.
"""

import torch

# Rows start at multiples of 16 bytes: what picks the largest of them reads so much.
ROW_ALIGNMENT = 4
ITEM = 4

_held: dict[torch.device, torch.Tensor] = {}


def pitch_of(columns: int) -> int:
    """Return how many numbers lie between the starts of two rows."""
    return -(-columns // ROW_ALIGNMENT) * ROW_ALIGNMENT


def reserve(count: int, device: torch.device) -> None:
    """Hold `count` float32 numbers on `device`, for good."""
    held = _held.get(device)
    if held is None or held.numel() < count:
        _held.pop(device, None)  # before the larger one is there
        _held[device] = torch.empty(count, dtype=torch.float32, device=device)


def release(device: torch.device) -> None:
    """Hold nothing on `device` any more."""
    _held.pop(device, None)


def reserved(device: torch.device) -> int:
    """Return how many numbers are held on `device`."""
    held = _held.get(device)
    return 0 if held is None else held.numel()


def logits(rows: int, columns: int, device: torch.device, *, clean: bool) -> torch.Tensor:
    """Return (rows, columns) float32, -inf with `clean` and undefined without.

    A tensor of its own where nothing is reserved, or too little for this call.
    """
    pitch = pitch_of(columns)
    count = rows * pitch
    held = _held.get(device)
    if held is not None and count <= held.numel():
        out = held[:count].view(rows, pitch)
    else:
        out = torch.empty((rows, pitch), dtype=torch.float32, device=device)
    return out.fill_(-torch.inf)[:, :columns] if clean else out[:, :columns]
