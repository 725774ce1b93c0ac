# SPDX-License-Identifier: Apache-2.0
"""The attention backend of a V3.2 or GLM layer on SM12x."""

import logging
from typing import Any

from ..support.choice import describe_once
from ..support.route import asked, choose, has_own_path, read_model

logger = logging.getLogger(__name__)


def sparse_backend(selected: Any, config: Any) -> str | None:
    """Return the path of our backend's class, or None where upstream is to choose.

    `selected` is the backend that was asked for (an entry of vLLM's table, or None), `config` the
    `AttentionSelectorConfig` of the layer.
    """
    from vllm.config import get_current_vllm_config
    from vllm.platforms import current_platform

    model = read_model(get_current_vllm_config()) if config.use_mla else None
    if model is None:
        return None
    layer = config._asdict() | {"device_capability": current_platform.get_device_capability()}
    refusal = asked(lambda: flashinfer_refuses(layer)) if has_own_path() else ""
    choice = choose(model, selected, ("FLASHMLA_SPARSE",), refusal=refusal)
    if not choice.triton:
        describe_once(choice, logger)
        return None
    from .backend import SparseBackend

    objections = SparseBackend.validate_configuration(**layer)
    if objections:
        logger.warning("The Triton path doesn't take this layer: %s.", ", ".join(objections))
        return None
    describe_once(choice, logger)
    return f"{SparseBackend.__module__}.{SparseBackend.__qualname__}"


def flashinfer_refuses(layer: dict[str, Any]) -> str:
    """Ask upstream's own backend about a layer; why it doesn't take it, or nothing."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    backend = AttentionBackendEnum.FLASHINFER_MLA_SPARSE_SM120.get_class()
    reasons = backend.validate_configuration(**layer)
    return f"vLLM's FlashInfer backend says: {', '.join(reasons)}" if reasons else ""
