# SPDX-License-Identifier: Apache-2.0
"""DeepSeek V4 in stages of a pipeline, for vLLM v0.20; v0.21 brings it.

Between stages goes the residual in all its streams: V4 copies an embedding into `hc_mult` of them
before the first layer and makes one of them after the last.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from vllm.distributed import get_pp_group
from vllm.model_executor.models.utils import PPMissingLayer, is_pp_missing_parameter
from vllm.sequence import IntermediateTensors

STREAMS = "hidden_states"


def on_first_rank(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return `make` on the pipeline's first rank, elsewhere what stands in for it."""
    return make if get_pp_group().is_first_rank else _absent(make)


def on_last_rank(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return `make` on the pipeline's last rank, elsewhere what stands in for it."""
    return make if get_pp_group().is_last_rank else _absent(make)


def _absent(make: Callable[..., Any]) -> Callable[..., Any]:
    # A layer's weights are passed over by the placeholder's name; of a buffer nothing is left.
    return PPMissingLayer if isinstance(make, type) else lambda *_, **__: None


def of_this_rank(
    model: torch.nn.Module, weights: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Pass on the weights of layers that this rank has.

    Fused and split parameters have their layer's prefix as the checkpoint's do, so names are
    looked at before upstream maps them.
    """
    return ((name, one) for name, one in weights if not is_pp_missing_parameter(name, model))


def handed_on(streams: torch.Tensor) -> IntermediateTensors | None:
    """Return `streams` (tokens, hc_mult, hidden) for the next stage, or None on the last one."""
    return None if get_pp_group().is_last_rank else IntermediateTensors({STREAMS: streams})


def empty_streams(config: Any) -> Callable[..., IntermediateTensors]:
    """Return what makes a stage's input for a dry run, from the model's configuration."""

    def make(batch_size: int, dtype: torch.dtype, device: torch.device) -> IntermediateTensors:
        shape = (batch_size, config.hc_mult, config.hidden_size)
        return IntermediateTensors({STREAMS: torch.zeros(shape, dtype=dtype, device=device)})

    return make
