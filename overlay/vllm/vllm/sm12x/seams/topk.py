# SPDX-License-Identifier: Apache-2.0
"""Whether the indexer's persistent top-k kernel can run on a device, for vLLM up to v0.29.

Its CTAs wait for each other in groups, so a whole group must be resident at once. A row of the
logits is shared out in parts that fit into shared memory; where a device has too few SMs for the
parts of one row, `csrc/topk.cu` takes a kernel that wants 128 KiB of shared memory instead, and
stops the request on devices with less, as SM12x is. (v0.20.0 launches all the same and waits for
ever.) From v0.30 on it takes the general kernel there by itself.
"""

import functools

import torch

# Constants of `persistent_topk.cuh`, the same in all these releases: bytes of shared memory, and
# the row length below which no CTA waits for another.
FIXED, MEDIUM, CAP_OF_EIGHT = 2080, 35_968, 48 * 1024
ALONE = 32_768
THREADS = 1024
OTHER_KERNEL_NEEDS = 128 * 1024


def persistent_fits(logits: torch.Tensor) -> bool:
    """Whether `logits` (rows, columns) float32 can go to the persistent kernel on their device."""
    shared, processors = limits_of(logits.device.index or 0)
    if shared >= OTHER_KERNEL_NEEDS:
        return True
    rows, columns = logits.shape
    pitch = max(columns, logits.stride(0))
    return columns <= ALONE or fits(rows, pitch, shared=shared, processors=processors)


@functools.cache
def limits_of(device: int) -> tuple[int, int]:
    """Return bytes of shared memory a CTA may ask for, and the number of SMs."""
    properties = torch.cuda.get_device_properties(device)
    return properties.shared_memory_per_block_optin, properties.multi_processor_count


def fits(rows: int, pitch: int, *, shared: int, processors: int) -> bool:
    """Whether the parts of one row of `pitch` numbers are resident together, at one CTA an SM.

    Two CTAs of 1024 threads don't fit on an SM of 12.x, which holds 1536. How much of a row is
    filled isn't asked: a captured graph is replayed with longer contexts.
    """
    held = min(shared, MEDIUM if rows <= 4 else CAP_OF_EIGHT if rows <= 8 else shared)
    vector = next(width for width in (4, 2, 1) if pitch % width == 0)
    part = max((held - FIXED) // 4 // vector * vector, vector * THREADS)
    return -(-pitch // part) <= processors
