# SPDX-License-Identifier: Apache-2.0
"""Kernels are compiled when vLLM makes a layer's metadata builder, which no request waits for.

That is in the worker, with the weights in place, before graphs are captured.
"""

import logging
from typing import Any

import torch

from ..warmup import gemm
from ..warmup.attention import Shape, from_config, warm_up
from ..warmup.gemm import GemmShape
from .deep_gemm import choose_gemm

logger = logging.getLogger(__name__)

_ready: set[Shape | GemmShape] = set()


def compile_once(vllm_config: Any, device: torch.device) -> None:
    """Compile what this model uses of ours; every kind of layer has a builder."""
    shape = from_config(vllm_config)
    if shape is not None and shape not in _ready:
        _ready.add(shape)
        warm_up(shape, device)
        logger.info("Sparse MLA on SM12x: %s.", graphs_of(vllm_config))
    gemm_shape = gemm.from_config(vllm_config) if choose_gemm().triton else None
    if gemm_shape is not None and gemm_shape not in _ready:
        _ready.add(gemm_shape)
        gemm.warm_up(gemm_shape, device)


def graphs_of(vllm_config: Any) -> str:
    """Say which graphs vLLM is about to capture, and that drafts are in them."""
    config = vllm_config.compilation_config
    sizes = config.cudagraph_capture_sizes
    if not config.cudagraph_mode or not sizes:
        return "no graphs are captured"
    speculative = vllm_config.speculative_config
    rows = f"{len(sizes)} size{'s'[: len(sizes) > 1]} up to {max(sizes)} rows"
    if speculative is None:
        return f"graphs {config.cudagraph_mode} of {rows}"
    drafts = speculative.num_speculative_tokens
    return f"graphs {config.cudagraph_mode} of {rows}, a request's {drafts} drafts among them"


def compiling(builder: type[Any]) -> type[Any]:
    """Return upstream's `builder` as a class that compiles the kernels."""

    class Builder(builder):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            compile_once(self.vllm_config, self.device)

    Builder.__name__ = Builder.__qualname__ = f"Triton{builder.__name__}"
    return Builder
