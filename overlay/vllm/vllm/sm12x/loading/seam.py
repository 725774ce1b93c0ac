# SPDX-License-Identifier: Apache-2.0
"""What vLLM's safetensors iterator calls: gathers the facts, asks the policy, logs its answer."""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from .. import envs
from .filesystem import survey
from .memory import measure
from .policy import Facts, Mode, decide

logger = logging.getLogger(__name__)


def auto_prefetch(strategy: str | None, files: Sequence[str], *, upstream: bool) -> bool | None:
    """Return whether to prefetch `files`, or None when upstream's own rules are to decide.

    They are when the user named a `strategy`, and where the facts can't be had (not Linux).
    `upstream` is what upstream decides for an automatic strategy. Raises OSError when a file
    can't be looked at.
    """
    if strategy is not None or sys.platform != "linux":
        return None
    decision = decide(gather(files, upstream=upstream))
    logger.info("%s", decision.explain())
    return decision.prefetch


def gather(files: Sequence[str], *, upstream: bool) -> Facts:
    """Look at the files, the memory and the process group that this process belongs to."""
    shards = survey(files)
    return Facts(
        mode=Mode(envs.get("VLLM_SM12X_PREFETCH")),
        total_bytes=shards.total_bytes,
        world_size=_world_size(),
        min_gib_per_rank=envs.get("VLLM_SM12X_PREFETCH_MIN_GIB"),
        filesystems=shards.filesystems,
        memory=measure(),
        weights_share_memory=_weights_share_memory(),
        upstream=upstream,
    )


def _world_size() -> int:
    """Number of ranks that upstream's prefetch shares the files out to."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_world_size())
    return 1


def _weights_share_memory() -> bool:
    """Whether the weights go to the memory that holds the page cache."""
    from torch import cuda

    gpu: Any = cuda  # partly untyped
    # Asking for properties would initialise CUDA in a process that may yet have to fork.
    if not gpu.is_initialized():
        return False
    return bool(gpu.get_device_properties(gpu.current_device()).is_integrated)
