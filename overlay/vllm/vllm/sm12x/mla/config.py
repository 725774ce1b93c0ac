# SPDX-License-Identifier: Apache-2.0
"""What the Triton path asks of vLLM's configuration, before the model is built."""

import logging
from typing import Any

from .. import envs
from ..support import Cache, describe_once, graphs_allowed
from .deep_gemm import describe
from .deepseek_v4 import OURS
from .route import choose, has_own_path, read_model

logger = logging.getLogger(__name__)

GRAPHS = "VLLM_TRITON_MLA_SPARSE_ALLOW_CUDAGRAPH"


def adjust(vllm_config: Any) -> None:
    """Turn graphs off where they aren't allowed, and take the packed cache where none is named.

    Nothing changes for models without sparse MLA and for those that don't take the Triton path.
    """
    model = read_model(vllm_config)
    if model is None:
        return
    describe()
    from vllm.utils.flashinfer import has_flashinfer

    # FlashInfer isn't imported for a closer look: that would start CUDA in a process that forks.
    choice = choose(model, vllm_config.attention_config.backend, OURS, served=has_flashinfer())
    if model.layout is Cache.V4 and not has_own_path():
        describe_once(choice, logger)  # elsewhere the layers do, as they choose
    if not choice.triton:
        return
    speculative = vllm_config.speculative_config is not None
    if not graphs_allowed(envs.get(GRAPHS), speculative=speculative):
        turn_graphs_off(vllm_config.compilation_config, speculative=speculative)
    cache_config = vllm_config.cache_config
    # Upstream's SM12x path, which comes with v0.24, reads "auto" so.
    if model.layout is Cache.V32 and has_own_path() and cache_config.cache_dtype == "auto":
        logger.info("Sparse MLA on SM12x: the KV cache is fp8_ds_mla unless another is asked for.")
        cache_config.cache_dtype = "fp8_ds_mla"


def turn_graphs_off(compilation_config: Any, *, speculative: bool) -> None:
    """Leave the model as it is written, neither compiled nor captured."""
    from vllm.config import CompilationMode, CUDAGraphMode

    why = "with speculative decoding" if speculative else "by request"
    logger.info(
        "Sparse MLA on SM12x: no compilation and no graphs %s (%s=1 allows them).", why, GRAPHS
    )
    compilation_config.mode = CompilationMode.NONE
    compilation_config.cudagraph_mode = CUDAGraphMode.NONE
