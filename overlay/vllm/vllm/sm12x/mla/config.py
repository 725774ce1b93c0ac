# SPDX-License-Identifier: Apache-2.0
"""What the Triton path asks of vLLM's configuration, before the model is built."""

import logging
from typing import Any

from .. import envs
from ..support import Cache, describe_once, flashinfer_v4_shapes
from .deep_gemm import describe
from .deepseek_v4 import OURS
from .route import Model, choose, has_own_path, read_model

logger = logging.getLogger(__name__)

# The names by which vLLM's FlashInfer backend for SM12x takes a cache.
PACKED_NAMES = ("auto", "fp8", "fp8_e4m3", "fp8_ds_mla")
# Windows of drafts that see each other are padded to a multiple of this.
ALIGNMENT = 64
GRAPHS = "VLLM_TRITON_MLA_SPARSE_ALLOW_CUDAGRAPH"


def adjust(vllm_config: Any) -> None:
    """Turn graphs off where the knob says so, and take the packed cache where none is named.

    Nothing changes for models without sparse MLA and for those that don't take the Triton path.
    """
    model = read_model(vllm_config)
    if model is None:
        return
    describe()
    choice = choose(
        model, vllm_config.attention_config.backend, OURS, served=foreseen(model, vllm_config)
    )
    if model.layout is Cache.V4 and not has_own_path():
        describe_once(choice, logger)  # elsewhere the layers do, as they choose
    if not choice.triton:
        return
    if not envs.get(GRAPHS):
        turn_graphs_off(vllm_config.compilation_config)
    cache_config = vllm_config.cache_config
    # Upstream's SM12x path, which comes with v0.24, reads "auto" so.
    if model.layout is Cache.V32 and has_own_path() and cache_config.cache_dtype == "auto":
        logger.info("Sparse MLA on SM12x: the KV cache is fp8_ds_mla unless another is asked for.")
        cache_config.cache_dtype = "fp8_ds_mla"


def foreseen(model: Model, vllm_config: Any) -> bool:
    """Whether the layers will find that FlashInfer serves this model.

    They ask upstream's classes, which import FlashInfer; here that would start CUDA in a process
    that forks.
    """
    from vllm.utils import flashinfer

    if not flashinfer.has_flashinfer():
        return False
    if model.layout is Cache.V32:
        return vllm_config.cache_config.cache_dtype in PACKED_NAMES
    asks = hasattr(flashinfer, "has_flashinfer_sparse_mla_sm120_config")
    shapes = flashinfer_v4_shapes() if asks else None
    if shapes is None:
        return True
    hf = vllm_config.model_config.hf_config
    heads = hf.num_attention_heads // vllm_config.parallel_config.tensor_parallel_size
    padded = next((some for some in sorted({h for h, _ in shapes}) if heads <= some), None)
    window, drafts = hf.sliding_window, vllm_config.speculative_config
    if drafts is not None and getattr(vllm_config.attention_config, "use_non_causal", False):
        window = -(-(window + drafts.num_speculative_tokens) // ALIGNMENT) * ALIGNMENT
    return (padded, window) in shapes


def turn_graphs_off(compilation_config: Any) -> None:
    """Leave the model as it is written, neither compiled nor captured."""
    from vllm.config import CompilationMode, CUDAGraphMode

    compilation_config.mode = CompilationMode.NONE
    compilation_config.cudagraph_mode = CUDAGraphMode.NONE
