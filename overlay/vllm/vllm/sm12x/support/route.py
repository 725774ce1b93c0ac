# SPDX-License-Identifier: Apache-2.0
"""What vLLM knows of a model and a device, put to `choice.decide`."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .. import envs
from ..layouts import V32
from .choice import (
    KNOB,
    NO_PATH,
    Cache,
    Choice,
    Route,
    cache_refuses,
    decide,
    describe_once,
    not_sm12x,
    sharing_refused,
    sinks_refused,
    triton_lacks,
)
from .compression import ratios_of
from .flashinfer import FlashInfer, find_flashinfer

logger = logging.getLogger(__name__)

# What is read of a configuration; without one of them the model is upstream's.
FIELDS = {
    Cache.V4: ("index_topk", "qk_rope_head_dim", "num_attention_heads", "sliding_window"),
    Cache.V32: ("index_topk", "qk_rope_head_dim"),
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """The shape of a model's sparse attention. `sinks`: HY V4's, over V3.2's cache. `dcp`: it is
    served with decode context parallelism.
    """

    layout: Cache
    index_topk: int
    rope_dim: int
    sinks: bool = False
    dcp: bool = False


def read_model(vllm_config: Any) -> Model | None:
    """Return what the configuration says of sparse MLA, or None for a model without it."""
    if vllm_config.model_config is None:
        return None
    hf = vllm_config.model_config.hf_text_config
    layout = _layout(hf)
    if layout is None:
        return None
    missing = [name for name in FIELDS[layout] if type(getattr(hf, name, None)) is not int]
    if missing:
        _leave(f"the model's configuration has no number for {', '.join(missing)}")
        return None
    # V4's sinks are a part of its layout, V3.2's are HY V4's alone.
    sinks = layout is Cache.V32 and bool(getattr(hf, "learnable_sink", False))
    return Model(
        layout=layout,
        index_topk=hf.index_topk,
        rope_dim=hf.qk_rope_head_dim,
        sinks=sinks,
        dcp=vllm_config.parallel_config.decode_context_parallel_size > 1,
    )


def _layout(hf: Any) -> Cache | None:
    """Whose cache a model has, None where it is none with sparse MLA."""
    if getattr(hf, "index_topk", None) is None:
        return None
    try:
        ratios = ratios_of(hf)
    except (AttributeError, TypeError, ValueError) as error:
        _leave(f"the kinds of layers can't be read in the model's configuration ({error})")
        return None
    if ratios:
        return Cache.V4
    # Others have sparse indexers, too, over caches that aren't MLA's.
    return Cache.V32 if getattr(hf, "kv_lora_rank", None) == V32.nope_dim else None


def _leave(why: str) -> None:
    describe_once(Choice(path=Route.UPSTREAM, why=why, unexpected=True), logger)


def has_own_path() -> bool:
    """Whether this vLLM has a FlashInfer path for sparse MLA on SM12x."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    return "FLASHINFER_MLA_SPARSE_SM120" in AttentionBackendEnum.__members__


def unasked(model: Model, found: FlashInfer) -> str:
    """What vLLM's own check doesn't ask and that is against upstream's path, or nothing.

    Up to v0.25 it says yes to a FlashInfer that has the function and no kernels behind it, and
    nowhere does it ask for kernels without RoPE. A layer with sinks asks it as one without, and
    then goes on without them where the backend hasn't got any.
    """
    from vllm.version import __version__

    if not has_own_path():
        return NO_PATH
    rope_dim = model.rope_dim
    return (
        found.refuses(rope_dim=rope_dim)
        or cache_refuses(__version__, rope_dim=rope_dim)
        or sinks_refused(__version__, sinks=model.sinks)
    )


def asked(ask: Callable[[], str]) -> str:
    """What upstream's check says. It imports FlashInfer, and one that is broken raises anything."""
    try:
        return ask()
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return f"asking vLLM about FlashInfer ended in {type(error).__name__}: {first}"


def choose(
    model: Model, backend: Any, ours: tuple[str, ...], *, refusal: str, lacks: str = ""
) -> Choice:
    """Choose a path. `backend` is what the user asked for, of which the names in `ours` mean us.

    `refusal`: what vLLM's own check has against FlashInfer for this model, `lacks`: against ours.
    """
    from vllm.platforms import current_platform
    from vllm.version import __version__

    forced = envs.get(KNOB)
    if backend is not None and backend.name not in ours:
        return Choice(path=Route.UPSTREAM, why=f"{backend.name} is asked for")
    found_capability = current_platform.get_device_capability()
    capability = found_capability and (found_capability.major, found_capability.minor)
    is_cuda = current_platform.is_cuda()
    shared = sharing_refused(__version__, layout=model.layout) if model.dcp else ""
    if shared and not not_sm12x(is_cuda, capability):
        return Choice(path=Route.NONE, why=shared, unexpected=True)
    found = find_flashinfer()
    choice = decide(
        is_cuda=is_cuda,
        capability=capability,
        forced=forced,
        refusal=unasked(model, found) or refusal,
        danger=found.danger,
        lacks=lacks or triton_lacks(layout=model.layout, rope_dim=model.rope_dim),
    )
    if backend is not None and choice.path is Route.UPSTREAM and forced is None and not lacks:
        return Choice(path=Route.TRITON, why=f"{backend.name} is asked for")
    return choice
