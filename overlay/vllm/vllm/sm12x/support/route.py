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
from .compression import V41, ratios_of
from .flashinfer import FlashInfer, find_flashinfer

logger = logging.getLogger(__name__)

# What is read of a configuration; without one of them the model is upstream's.
FIELDS = {
    Cache.V4: ("index_topk", "qk_rope_head_dim", "num_attention_heads", "sliding_window"),
    Cache.V32: ("index_topk", "qk_rope_head_dim", "kv_lora_rank"),
}
HY_V4 = "hy_v4"
# Whose configurations have them all. Others may have sparse indexers over other caches.
KNOWN = {
    **dict.fromkeys(("deepseek_v4", V41), Cache.V4),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "glm5_next_text", HY_V4), Cache.V32),
}
# What HY V4's class calls a layer with an indexer.
INDEXED = ("sparse_attention", "sparse", "indexed_attention", "deepseek_sparse_attention")


@dataclass(frozen=True, kw_only=True)
class Model:
    """The shape of a model's sparse attention.

    `sinks`: HY V4's, over V3.2's cache. `dense`: so many of its layers have no indexer and attend
    to all tokens, which is upstream's code. `dcp`: it is served with decode context parallelism.
    """

    layout: Cache
    index_topk: int
    rope_dim: int
    sinks: bool = False
    dense: int = 0
    dcp: bool = False


def read_model(vllm_config: Any) -> Model | None:
    """Return what the configuration says of sparse MLA, or None for a model without it."""
    if vllm_config.model_config is None:
        return None
    hf = vllm_config.model_config.hf_text_config
    layout = _layout(hf)
    if layout is None:
        return None
    missing = [name for name in wanted(hf, layout) if not _is_number(hf, name)]
    if missing:
        _leave(f"the model's configuration has no number for {', '.join(missing)}")
        return None
    # Others' caches have rows of other widths.
    if layout is Cache.V32 and hf.kv_lora_rank != V32.nope_dim:
        return None
    # V4's sinks are a part of its layout, V3.2's are HY V4's alone.
    sinks = layout is Cache.V32 and bool(getattr(hf, "learnable_sink", False))
    indexers, dense = layers_of(hf)
    if dense and not indexers:
        return None
    return Model(
        layout=layout,
        index_topk=hf.index_topk,
        rope_dim=hf.qk_rope_head_dim,
        sinks=sinks,
        dense=dense,
        dcp=vllm_config.parallel_config.decode_context_parallel_size > 1,
    )


def wanted(hf: Any, layout: Cache) -> tuple[str, ...]:
    """What is read of a configuration that has to be a number."""
    counts = ("num_hidden_layers",) if getattr(hf, "model_type", None) == HY_V4 else ()
    return FIELDS[layout] + counts


def _is_number(hf: Any, name: str) -> bool:
    """Whether a field is one that can be: from 1 on, and there are models without RoPE."""
    value = getattr(hf, name, None)
    return type(value) is int and value >= (0 if name == "qk_rope_head_dim" else 1)


def layers_of(hf: Any) -> tuple[int, int]:
    """How many layers of a model have an indexer, and how many have none.

    HY V4 goes by `layer_types`, and no layer has one where they aren't given. In other models with
    `index_topk` all have.
    """
    if getattr(hf, "model_type", None) != HY_V4:
        return 1, 0
    layers, kinds = hf.num_hidden_layers, getattr(hf, "layer_types", None)
    listed = kinds[:layers] if isinstance(kinds, (list, tuple)) else ()
    indexers = sum(kind in INDEXED for kind in listed)
    return indexers, layers - indexers


def _layout(hf: Any) -> Cache | None:
    """Whose cache a model has, None where it is none with sparse MLA."""
    known = KNOWN.get(getattr(hf, "model_type", ""))
    if known is None and getattr(hf, "index_topk", None) is None:
        return None
    try:
        ratios = ratios_of(hf)
    except (AttributeError, TypeError, ValueError) as error:
        _leave(f"the kinds of layers can't be read in the model's configuration ({error})")
        return None
    if ratios:
        return Cache.V4
    if known is Cache.V4:
        _leave("the model's configuration doesn't say the kinds of its layers (compress_ratios)")
        return None
    ours = known is Cache.V32 or getattr(hf, "kv_lora_rank", None) == V32.nope_dim
    return Cache.V32 if ours else None


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
