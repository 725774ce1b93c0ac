# SPDX-License-Identifier: Apache-2.0
"""The attention backend of a V3.2 or GLM layer on SM12x."""

import logging
from typing import Any

from ..support.choice import WITHOUT_LSE, describe_once
from ..support.route import asked, choose, has_own_path, read_model

logger = logging.getLogger(__name__)


def sparse_backend(selected: Any, config: Any) -> str | None:
    """Return the path of our backend's class, or None where upstream is to choose.

    `selected` is the backend that was asked for (an entry of vLLM's table, or None), `config` the
    `AttentionSelectorConfig` of the layer.
    """
    from vllm.config import get_current_vllm_config
    from vllm.platforms import current_platform

    vllm_config = get_current_vllm_config()
    model = read_model(vllm_config) if config.use_mla else None
    if model is None:
        return None
    layer = config._asdict() | {"device_capability": current_platform.get_device_capability()}
    dcp = vllm_config.parallel_config.decode_context_parallel_size > 1
    refusal = asked(lambda: flashinfer_refuses(layer, dcp)) if has_own_path() else ""
    choice = choose(model, selected, ("FLASHMLA_SPARSE",), refusal=refusal)
    if choice.triton:
        from .backend import SparseBackend

        objections = reasons_of(SparseBackend, layer, dcp)
        if not objections:
            describe_once(choice, logger)
            return f"{SparseBackend.__module__}.{SparseBackend.__qualname__}"
        lacks = f"the Triton path says: {', '.join(objections)}"
        choice = choose(model, selected, ("FLASHMLA_SPARSE",), refusal=refusal, lacks=lacks)
    describe_once(choice, logger)
    return None


def reasons_of(backend: Any, layer: dict[str, Any], dcp: bool) -> list[str]:
    """Why a backend can't take a layer, by its own check.

    Up to v0.29 that doesn't ask about decode context parallelism; vLLM stops at it later.
    """
    reasons = list(backend.validate_configuration(**layer))
    if not reasons and dcp and not backend.get_impl_cls().can_return_lse_for_decode:
        reasons.append(f"it {WITHOUT_LSE}")
    return reasons


def flashinfer_refuses(layer: dict[str, Any], dcp: bool) -> str:
    """Ask upstream's own backend about a layer; why it doesn't take it, or nothing."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    backend = AttentionBackendEnum.FLASHINFER_MLA_SPARSE_SM120.get_class()
    reasons = reasons_of(backend, layer, dcp)
    return f"vLLM's FlashInfer backend says: {', '.join(reasons)}" if reasons else ""
