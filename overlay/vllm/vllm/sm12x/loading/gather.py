# SPDX-License-Identifier: Apache-2.0
"""Gather what the policy decides by: the files, the memory, the ranks, and what the user asked."""

from collections.abc import Sequence
from typing import Any

from .. import envs
from .facts.filesystem import Kind, survey
from .facts.memory import measure
from .files import pages
from .policy import GIB, Facts, Way

STRATEGY = "--safetensors-load-strategy"


def asked_way(strategy: str | None) -> tuple[Way | None, str]:
    """Return the way that the user named, and by what: the strategy, or one of our variables."""
    if strategy is not None:
        return Way(strategy), f"{STRATEGY} {strategy}"
    named = envs.get("VLLM_SM12X_LOADING")
    if named != "auto":
        return Way(named), f"VLLM_SM12X_LOADING={named}"
    older = envs.get("VLLM_SM12X_PREFETCH")
    if older != "auto":
        way = Way.PREFETCH if older == "1" else Way.LAZY
        return way, f"VLLM_SM12X_PREFETCH={older}"
    return None, ""


def gather(files: Sequence[str], strategy: str | None) -> Facts:
    """Look at the files, the memory and the process group that this process belongs to.

    Raises OSError when a file can't be looked at.
    """
    shards = survey(files)
    asked, asked_by = asked_way(strategy)
    return Facts(
        asked=asked,
        asked_by=asked_by,
        total_bytes=shards.total_bytes,
        rank_bytes=shards.total_bytes / world_size(),
        # What a window brings in for this machine's ranks, be it that each takes a part of all.
        node_bytes=shards.total_bytes,
        min_gib_per_rank=envs.get("VLLM_SM12X_PREFETCH_MIN_GIB"),
        bytes_on=shards.bytes_on,
        memory=measure(),
        resident=pages.share_resident(files),
        weights_share_memory=weights_share_memory(),
        window_bytes=int(envs.get("VLLM_SM12X_LOADING_WINDOW_GIB") * GIB),
    )


def can_lock(facts: Facts) -> bool:
    """Whether locks on the files stay on this machine."""
    return not facts.bytes_of(Kind.NETWORK, Kind.UNKNOWN)


def reads_by_advice(facts: Facts) -> bool:
    """Whether the kernel reads ahead as much as it is advised to: on a block device it does."""
    return not facts.bytes_of(Kind.NETWORK, Kind.UNKNOWN)


def world_size() -> int:
    """Number of ranks that a checkpoint is divided among."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_world_size())
    return 1


def weights_share_memory() -> bool:
    """Whether the weights go to the memory that holds the page cache."""
    from torch import cuda

    gpu: Any = cuda  # partly untyped
    # Asking for properties would initialise CUDA in a process that may yet have to fork.
    if not gpu.is_initialized():
        return False
    return bool(gpu.get_device_properties(gpu.current_device()).is_integrated)
