# SPDX-License-Identifier: Apache-2.0
"""The attention backend of a V3.2 or GLM layer on SM12x."""

import logging
from typing import Any

from ..support.choice import Choice, Route, cannot_share, describe_once
from ..support.route import Model, asked, choose, has_own_path, read_model

logger = logging.getLogger(__name__)

OURS, THEIRS = "FLASHMLA_SPARSE", "FLASHINFER_MLA_SPARSE_SM120"
PACKED = ("fp8_ds_mla", "fp8", "fp8_e4m3")


def sparse_backend(selected: Any, config: Any) -> str | None:
    """Return the path of our backend's class, or None where upstream is to choose.

    `selected` is the backend that was asked for (an entry of vLLM's table, or None), `config` the
    `AttentionSelectorConfig` of the layer. ValueError where ranks are to share contexts and nobody
    can serve that.
    """
    from vllm.config import get_current_vllm_config
    from vllm.platforms import current_platform

    vllm_config = get_current_vllm_config()
    model = read_model(vllm_config) if config.use_mla else None
    if model is None:
        return None
    layer = config._asdict() | {"device_capability": current_platform.get_device_capability()}
    choice, backend = choose_backend(model, selected, layer)
    if model.dcp and choice.path is Route.NONE:
        ranks = vllm_config.parallel_config.decode_context_parallel_size
        raise cannot_share(ranks, choice.why)
    describe_once(choice, logger)
    return None if backend is None else f"{backend.__module__}.{backend.__qualname__}"


def choose_backend(model: Model, selected: Any, layer: dict[str, Any]) -> tuple[Choice, Any]:
    """Choose a path for a layer, and its class where that is one of ours."""
    refusal = asked(lambda: flashinfer_refuses(layer, model)) if has_own_path() else ""
    choice = choose(model, selected, (OURS,), refusal=refusal)
    if choice.triton:
        from .backend import SparseBackend

        objections = triton_objects(SparseBackend, layer, model)
        if not objections:
            return choice, SparseBackend
        lacks = f"the Triton path says: {', '.join(objections)}"
        choice = choose(model, selected, (OURS,), refusal=refusal, lacks=lacks)
    named = selected is None or selected.name == THEIRS
    if model.dcp and choice.path is Route.UPSTREAM and named and not refusal:
        return choice, flashinfer_backend(model)
    return choice, None


def triton_objects(backend: Any, layer: dict[str, Any], model: Model) -> list[str]:
    """Why our backend can't take a layer."""
    reasons = list(backend.validate_configuration(**layer))
    if model.dcp and layer["kv_cache_dtype"] not in PACKED:
        reasons.append(f"ranks share no {layer['kv_cache_dtype']} cache, fp8_ds_mla can be shared")
    return reasons


def flashinfer_refuses(layer: dict[str, Any], model: Model) -> str:
    """Ask the FlashInfer backend's own check about a layer; why it doesn't take it, or nothing."""
    reasons = flashinfer_backend(model).validate_configuration(**layer)
    return f"vLLM's FlashInfer backend says: {', '.join(reasons)}" if reasons else ""


def flashinfer_backend(model: Model) -> Any:
    """Return upstream's class, where ranks share contexts with an LSE."""
    if model.dcp:
        from .flashinfer import SharedBackend

        return SharedBackend
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    return AttentionBackendEnum[THEIRS].get_class()
