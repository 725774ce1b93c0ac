# SPDX-License-Identifier: Apache-2.0
"""The attention class of DeepSeek V4 and V4.1 on SM12x, for vLLM v0.23 and newer.

`deepseek_v4_older` has what the releases before need for the same.
"""

import importlib
import logging
from typing import Any

from ..ops.flash_mla import flash_mla_with_kvcache, get_mla_metadata
from ..support.choice import describe_once
from ..support.route import asked, choose, has_own_path, read_model
from .ready import compiling
from .windows import add_windows

logger = logging.getLogger(__name__)

OURS = ("FLASHMLA_SPARSE", "FLASHMLA_SPARSE_DSV4", "FLASHMLA_SPARSE_DSV41")
PLAN = "tile_sched_"
# Rows of a prompt that get their slots at a time: 32 MB of them with 1 M tokens of context.
PASS_ROWS = 1024


def attention_class(vllm_config: Any, flashmla: type[Any]) -> type[Any] | None:
    """Return the class for SM12x, made from upstream's for FlashMLA, or None for upstream's own."""
    model = read_model(vllm_config)
    if model is None:
        return None
    own = has_own_path()
    refusal = asked(lambda: flashinfer_refuses(vllm_config, flashmla)) if own else ""
    choice = choose(model, vllm_config.attention_config.backend, OURS, refusal=refusal)
    describe_once(choice, logger)
    return portable(flashmla) if choice.triton else None


def flashinfer_refuses(vllm_config: Any, flashmla: type[Any]) -> str:
    """Ask vLLM why FlashInfer can't serve a V4 model of this shape on SM12x; nothing if it can.

    Up to v0.27 vLLM doesn't look at shapes.
    """
    from vllm.utils import flashinfer

    if not flashinfer.has_flashinfer_sparse_mla_sm120():
        return "vLLM says that FlashInfer's sparse MLA can't be used here"
    ask = getattr(flashinfer, "has_flashinfer_sparse_mla_sm120_config", None)
    if ask is None:
        return ""
    beside = importlib.import_module(f"{flashmla.__module__.rpartition('.')[0]}.flashinfer_sparse")
    hf = vllm_config.model_config.hf_config
    width, heads = hf.sliding_window, hf.num_attention_heads
    heads //= vllm_config.parallel_config.tensor_parallel_size
    width_of = getattr(beside, "_required_sm120_sparse_topk", lambda _, window: window)
    try:
        padded = beside.DeepseekV4FlashInferSM120Attention.get_padded_num_q_heads(heads)
    except ValueError as error:  # more heads than it has kernels for
        return f"vLLM says: {error}"
    wanted = width_of(vllm_config, width)
    if ask(padded, wanted):
        return ""
    return (
        f"vLLM says that FlashInfer has no V4 kernels for {padded} heads and a window of {wanted}"
    )


_portable: dict[type[Any], type[Any]] = {}


def portable(flashmla: type[Any]) -> type[Any]:
    """Return upstream's FlashMLA attention class as it runs on SM12x.

    Its kernels are compiled at start, its heads are not padded, and a prompt's keys are read where
    they are instead of being gathered in bfloat16. Every layer gets the same class.
    """
    if flashmla in _portable:
        return _portable[flashmla]

    upstream = flashmla.backend_cls
    builder = compiling(upstream.get_builder_cls())

    class Backend(upstream):  # type: ignore[misc, valid-type]
        @staticmethod
        def get_builder_cls() -> type[Any]:
            return builder

    class Attention(flashmla):  # type: ignore[misc]
        backend_cls = Backend

        @classmethod
        def get_padded_num_q_heads(cls, num_heads: int) -> int:
            return num_heads

        def forward_mqa(self, q: Any, kv: Any, positions: Any, output: Any) -> None:
            from vllm.forward_context import get_forward_context

            if get_forward_context().attn_metadata is None:
                output.zero_()  # upstream reserves a workspace for the longest context here
            else:
                super().forward_mqa(q, kv, positions, output)

        def _forward_decode(self, *args: Any, **kwargs: Any) -> None:
            add_plans(kwargs["swa_metadata"])
            super()._forward_decode(*args, **kwargs)

        def _forward_prefill(self, **kwargs: Any) -> None:
            add_windows(kwargs["swa_metadata"], kwargs["positions"], self.window_size)
            prefill(self, importlib.import_module(flashmla.__module__), **kwargs)

    for made, after in ((Backend, upstream), (Attention, flashmla)):
        made.__name__ = made.__qualname__ = f"Triton{after.__name__}"
    return _portable.setdefault(flashmla, Attention)


def prefill(
    layer: Any,
    upstream: Any,
    *,
    q: Any,
    compressed_k_cache: Any,
    swa_k_cache: Any,
    output: Any,
    attn_metadata: Any,
    swa_metadata: Any,
    **_unused: Any,
) -> None:
    """Attend from the tokens of prompts: each is a row over the packed caches, as in decode.

    The metadata has every token's window: see `windows`. `upstream` is the module with the function
    that turns a request's places into slots.
    """
    first, windows = swa_metadata.num_decode_tokens, swa_metadata.prefill_swa_indices
    local = block_size = None
    if compressed_k_cache is not None:
        block_size = attn_metadata.block_size // layer.compress_ratio
        whole = layer.compress_ratio == 128
        local = attn_metadata.c128a_prefill_topk_indices if whole else layer.topk_indices_buffer
        local = local if whole else local[first:]
    for start in range(0, len(windows), PASS_ROWS):
        rows = slice(start, min(start + PASS_ROWS, len(windows)))
        extra: dict[str, Any] = {}
        if local is not None:
            tokens = slice(first + rows.start, first + rows.stop)
            slots, lengths = upstream.compute_global_topk_indices_and_lens(
                local[rows],
                swa_metadata.token_to_req_indices[tokens],
                attn_metadata.block_table,
                block_size,
                swa_metadata.is_valid_token[tokens],
            )
            extra = {
                "extra_k_cache": compressed_k_cache.unsqueeze(-2),
                "extra_indices_in_kvcache": slots.unsqueeze(1),
                "extra_topk_length": lengths,
            }
        flash_mla_with_kvcache(
            q=q[rows].unsqueeze(1),
            k_cache=swa_k_cache.unsqueeze(-2),
            block_table=None,
            cache_seqlens=None,
            head_dim_v=q.shape[-1],
            tile_scheduler_metadata=None,
            softmax_scale=layer.scale,
            is_fp8_kvcache=True,
            indices=windows[rows].view(rows.stop - rows.start, 1, -1),
            topk_length=swa_metadata.prefill_swa_lens[rows],
            attn_sink=layer.attn_sink,
            out=output[rows].unsqueeze(1),
            **extra,
        )


def add_plans(metadata: Any) -> None:
    """Give each kind of layer the scheduling object that upstream's builder leaves out on SM12x.

    FlashMLA's class wants one; our functions only remember in it what they were called with.
    """
    for name, plan in vars(metadata).items():
        if plan is None and name.startswith(PLAN):
            setattr(metadata, name, get_mla_metadata()[0])
