# SPDX-License-Identifier: Apache-2.0
"""The attention class of DeepSeek V4 and V4.1 on SM12x, for vLLM v0.24 and newer.

Older releases have FlashMLA's class alone, which works with the functions that `flashmla` binds.
"""

import importlib
import logging
from typing import Any

from ..ops.flash_mla import get_mla_metadata
from ..support import describe_once
from .ready import compiling
from .route import choose, read_model

logger = logging.getLogger(__name__)

OURS = ("FLASHMLA_SPARSE", "FLASHMLA_SPARSE_DSV4", "FLASHMLA_SPARSE_DSV41")
PLAN = "tile_sched_"


def attention_class(vllm_config: Any, flashmla: type[Any]) -> type[Any] | None:
    """Return the class for SM12x, made from upstream's for FlashMLA, or None for upstream's own."""
    model = read_model(vllm_config)
    if model is None:
        return None
    served = flashinfer_serves(vllm_config, flashmla)
    choice = choose(model, vllm_config.attention_config.backend, OURS, served=served)
    describe_once(choice, logger)
    return portable(flashmla) if choice.triton else None


def flashinfer_serves(vllm_config: Any, flashmla: type[Any]) -> bool:
    """Ask vLLM whether FlashInfer serves a V4 model of this shape on SM12x.

    Up to v0.28 vLLM doesn't look at shapes.
    """
    from vllm.utils import flashinfer

    ask = getattr(flashinfer, "has_flashinfer_sparse_mla_sm120_config", None)
    if ask is None:
        return bool(flashinfer.has_flashinfer_sparse_mla_sm120())
    beside = importlib.import_module(f"{flashmla.__module__.rpartition('.')[0]}.flashinfer_sparse")
    hf = vllm_config.model_config.hf_config
    width, heads = hf.sliding_window, hf.num_attention_heads
    heads //= vllm_config.parallel_config.tensor_parallel_size
    width_of = getattr(beside, "_required_sm120_sparse_topk", lambda _, window: window)
    try:
        padded = beside.DeepseekV4FlashInferSM120Attention.get_padded_num_q_heads(heads)
    except ValueError:  # more heads than it has kernels for
        return False
    return bool(ask(padded, width_of(vllm_config, width)))


_portable: dict[type[Any], type[Any]] = {}


def portable(flashmla: type[Any]) -> type[Any]:
    """Return upstream's FlashMLA attention class with compiled kernels, without padded heads.

    Every layer gets the same class.
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

        def _forward_decode(self, *args: Any, **kwargs: Any) -> None:
            add_plans(kwargs["swa_metadata"])
            super()._forward_decode(*args, **kwargs)

    for made, after in ((Backend, upstream), (Attention, flashmla)):
        made.__name__ = made.__qualname__ = f"Triton{after.__name__}"
    return _portable.setdefault(flashmla, Attention)


def add_plans(metadata: Any) -> None:
    """Give each kind of layer the scheduling object that upstream's builder leaves out on SM12x.

    FlashMLA's class wants one; our functions only remember in it what they were called with.
    """
    for name, plan in vars(metadata).items():
        if plan is None and name.startswith(PLAN):
            setattr(metadata, name, get_mla_metadata()[0])
