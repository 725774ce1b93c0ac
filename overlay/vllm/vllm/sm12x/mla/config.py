# SPDX-License-Identifier: Apache-2.0
"""What the Triton path asks of vLLM's configuration, before the model is built."""

import logging
from typing import Any

from .. import envs
from ..support.choice import Cache, Choice, Route, cannot_share, describe_once, vllm_refuses
from ..support.flashinfer import flashinfer_v4_shapes
from ..support.route import Model, choose, has_own_path, read_model
from .deep_gemm import describe
from .deepseek_v4 import OURS

logger = logging.getLogger(__name__)

# The names by which vLLM's FlashInfer backend for SM12x takes a cache.
PACKED_NAMES = ("auto", "fp8", "fp8_e4m3", "fp8_ds_mla")
# Windows of drafts that see each other are padded to a multiple of this.
ALIGNMENT = 64
GRAPHS = "VLLM_TRITON_MLA_SPARSE_ALLOW_CUDAGRAPH"


def adjust(vllm_config: Any) -> None:
    """Turn graphs off where the knob says so, and take the packed cache where none is named.

    Nothing changes for models without sparse MLA and for those that don't take the Triton path.
    ValueError where ranks are to share contexts and no path can: vLLM would stop there after it has
    loaded the weights, with an assertion.
    """
    model = read_model(vllm_config)
    if model is None:
        return
    describe()
    choice = path_of(model, vllm_config)
    if model.dcp and choice.path is Route.NONE:
        ranks = vllm_config.parallel_config.decode_context_parallel_size
        raise cannot_share(ranks, choice.why)
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


def path_of(model: Model, vllm_config: Any) -> Choice:
    """Choose a path for a model before its layers do."""
    backend = vllm_config.attention_config.backend
    return choose(model, backend, OURS, refusal=foreseen(model, vllm_config))


def keeps_bfloat16(vllm_config: Any) -> bool:
    """Whether a cache that is asked for in bfloat16 keeps that name.

    For V3.2 upstream writes "auto" in its place, which its own SM12x path reads as the packed
    cache, and `adjust` with it. FlashInfer doesn't take bfloat16 there, the Triton path does.
    """
    model = read_model(vllm_config)
    return model is not None and model.layout is Cache.V32 and path_of(model, vllm_config).triton


def foreseen(model: Model, vllm_config: Any) -> str:
    """Why the layers will find that FlashInfer can't serve this model; nothing where it can.

    They ask upstream's classes, which import FlashInfer; here that would start CUDA in a process
    that forks. What only they can find out counts as serving.
    """
    from vllm.utils import flashinfer
    from vllm.version import __version__

    if not flashinfer.has_flashinfer():
        return "vLLM finds no FlashInfer that it can use"
    known = vllm_refuses(
        __version__,
        layout=model.layout,
        index_topk=model.index_topk,
        rope_dim=model.rope_dim,
    )
    if known:
        return known
    if model.layout is Cache.V32:
        dtype = vllm_config.cache_config.cache_dtype
        return "" if dtype in PACKED_NAMES else f"vLLM's FlashInfer path takes no {dtype} cache"
    asks = hasattr(flashinfer, "has_flashinfer_sparse_mla_sm120_config")
    shapes = flashinfer_v4_shapes() if asks else None
    return "" if shapes is None else outside(shapes, vllm_config)


def outside(shapes: frozenset[tuple[int, int]], vllm_config: Any) -> str:
    """Say that a V4 model isn't among the (heads, window) that FlashInfer has a table of."""
    hf = vllm_config.model_config.hf_config
    heads = hf.num_attention_heads // vllm_config.parallel_config.tensor_parallel_size
    padded = next((some for some in sorted({h for h, _ in shapes}) if heads <= some), None)
    window, drafts = hf.sliding_window, vllm_config.speculative_config
    if drafts is not None and getattr(vllm_config.attention_config, "use_non_causal", False):
        window = -(-(window + drafts.num_speculative_tokens) // ALIGNMENT) * ALIGNMENT
    if (padded, window) in shapes:
        return ""
    return f"FlashInfer has no V4 kernels for {heads} heads and a window of {window}"


def turn_graphs_off(compilation_config: Any) -> None:
    """Leave the model as it is written, neither compiled nor captured."""
    from vllm.config import CompilationMode, CUDAGraphMode

    compilation_config.mode = CompilationMode.NONE
    compilation_config.cudagraph_mode = CUDAGraphMode.NONE
