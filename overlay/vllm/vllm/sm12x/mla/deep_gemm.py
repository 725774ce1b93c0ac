# SPDX-License-Identifier: Apache-2.0
"""DeepGEMM's functions in `vllm/utils/deep_gemm.py`, on SM12x ours where DeepGEMM has no code."""

import functools
import logging
from collections.abc import MutableMapping
from typing import Any

import torch

from .. import envs
from ..layouts import exponents_to_scales
from ..ops import deep_gemm
from ..support.choice import KNOB, Choice, describe_once
from ..support.gemm import SUBJECT, decide_gemm, find_deep_gemm

logger = logging.getLogger(__name__)


@functools.cache
def choose_gemm() -> Choice:
    """Choose for this process's device, once: a model's weights are prepared for one path."""
    from vllm.platforms import current_platform

    capability = current_platform.get_device_capability()
    return decide_gemm(
        is_cuda=current_platform.is_cuda(),
        capability=None if capability is None else (capability.major, capability.minor),
        forced=envs.get(KNOB),
        calls_deep_gemm=current_platform.support_deep_gemm(),
        found=find_deep_gemm(),
    )


def bind(names: MutableMapping[str, Any]) -> None:
    """Put our functions into `names`, the module's namespace, where they are chosen.

    vLLM asks the same module what it may use. DeepGEMM's presence is what it wants of the
    indexer, and ours will do; its GEMMs for linear layers and experts stay out of use.
    """
    if not choose_gemm().triton:
        return
    for name in deep_gemm.__all__:
        names[name] = getattr(deep_gemm, name)
    names["has_deep_gemm"] = lambda: True
    names["is_deep_gemm_supported"] = lambda: False


def plain_scales(scales: torch.Tensor) -> torch.Tensor:
    """Return a weight's UE8M0 scales as float32, the only ones that CUTLASS reads on SM12x.

    DeepGEMM, where it is in use, wants them as they are, and other scales stay what they are.
    """
    if scales.dtype != torch.float8_e8m0fnu or not choose_gemm().triton:
        return scales
    return exponents_to_scales(scales.view(torch.uint8))


def describe() -> None:
    """Say in the log which path a model with an indexer takes."""
    describe_once(choose_gemm(), logger, SUBJECT)
