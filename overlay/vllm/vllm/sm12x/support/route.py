# SPDX-License-Identifier: Apache-2.0
"""What vLLM knows of a model and a device, put to `choice.decide`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import envs
from ..layouts import V32
from .choice import KNOB, NO_PATH, Cache, Choice, Route, cache_refuses, decide
from .compression import ratios_of
from .flashinfer import FlashInfer, find_flashinfer


@dataclass(frozen=True, kw_only=True)
class Model:
    """The shape of a model's sparse attention."""

    layout: Cache
    index_topk: int
    rope_dim: int


def read_model(vllm_config: Any) -> Model | None:
    """Return what the configuration says of sparse MLA, or None for a model without it."""
    if vllm_config.model_config is None:
        return None
    hf = vllm_config.model_config.hf_text_config
    index_topk, rope_dim = getattr(hf, "index_topk", None), getattr(hf, "qk_rope_head_dim", None)
    if index_topk is None or rope_dim is None:
        return None
    if ratios_of(hf):
        return Model(layout=Cache.V4, index_topk=index_topk, rope_dim=rope_dim)
    # Others have sparse indexers, too, over caches that aren't MLA's.
    if getattr(hf, "kv_lora_rank", None) != V32.nope_dim:
        return None
    return Model(layout=Cache.V32, index_topk=index_topk, rope_dim=rope_dim)


def has_own_path() -> bool:
    """Whether this vLLM has a FlashInfer path for sparse MLA on SM12x."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    return "FLASHINFER_MLA_SPARSE_SM120" in AttentionBackendEnum.__members__


def unasked(model: Model, found: FlashInfer) -> str:
    """What vLLM's own check doesn't ask and that is against upstream's path, or nothing.

    Up to v0.25 it says yes to a FlashInfer that has the function and no kernels behind it, and
    nowhere does it ask for kernels without RoPE.
    """
    from vllm.version import __version__

    if not has_own_path():
        return NO_PATH
    rope_dim = model.rope_dim
    return found.refuses(rope_dim=rope_dim) or cache_refuses(__version__, rope_dim=rope_dim)


def asked(ask: Callable[[], str]) -> str:
    """What upstream's check says. It imports FlashInfer, and one that is broken raises anything."""
    try:
        return ask()
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return f"asking vLLM about FlashInfer ended in {type(error).__name__}: {first}"


def choose(model: Model, backend: Any, ours: tuple[str, ...], *, refusal: str) -> Choice:
    """Choose a path. `backend` is what the user asked for, of which the names in `ours` mean us.

    `refusal`: what vLLM's own check has against FlashInfer for this model, or nothing.
    """
    from vllm.platforms import current_platform

    forced = envs.get(KNOB)
    if backend is not None and backend.name not in ours:
        return Choice(path=Route.UPSTREAM, why=f"{backend.name} is asked for")
    capability = current_platform.get_device_capability()
    found = find_flashinfer()
    choice = decide(
        is_cuda=current_platform.is_cuda(),
        capability=None if capability is None else (capability.major, capability.minor),
        forced=forced,
        layout=model.layout,
        rope_dim=model.rope_dim,
        refusal=unasked(model, found) or refusal,
        danger=found.danger,
    )
    if backend is not None and choice.path is Route.UPSTREAM and forced is None:
        return Choice(path=Route.TRITON, why=f"{backend.name} is asked for")
    return choice
