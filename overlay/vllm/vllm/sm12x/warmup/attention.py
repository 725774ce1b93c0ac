# SPDX-License-Identifier: Apache-2.0
"""Compiles every kernel that a model's sparse attention will use, before the first request.

Kernels depend on head count, page sizes, the presence of a second scope, of lengths and of a sink,
and on whether rows are split; not on how many rows, entries or pages there are. So one query row
without valid entries compiles each of them in no time beside the compiler's. Merges are compiled
for each power of two up to the most splits that a row can have.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import layouts
from ..layouts import V4, V32, Layout
from ..layouts.scope import Scope
from ..support.compression import WINDOW_PAGE, ratios_of, window_page

logger = logging.getLogger(__name__)

V32_PAGE = 64
# Entries of a tile, the same in all of `kernels.tiles.TABLE`; not imported, for that needs Triton.
BLOCK_ENTRIES = 32
# Widths of index rows are multiples of this, as FlashMLA wants them.
ALIGNMENT = 128


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One kind of decode layer: entries a row, and tokens a page, of each of its scopes."""

    widths: tuple[int, ...]
    page_sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a model decides about kernels. `heads` are those of one rank.

    `sink` and `lengths` say whether decode is called with them. `prefill_lengths`: with which of
    both prefill is called.
    """

    layout: Layout
    heads: int
    width: int
    layers: tuple[Layer, ...]
    sink: bool
    lengths: bool
    prefill_lengths: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One call that compiles what hasn't been compiled. `layer` None means prefill."""

    layer: Layer | None
    splits: int
    lengths: bool

    def __str__(self) -> str:
        if self.layer is None:
            return f"prefill {'with' if self.lengths else 'without'} lengths"
        pages = " and ".join(map(str, self.layer.page_sizes))
        kind = "whole" if self.splits == 1 else f"{self.splits} splits"
        return f"decode over pages of {pages}, {kind}"


def v4_shape(
    *,
    heads: int,
    window: int,
    index_topk: int,
    ratios: Iterable[int],
    block_size: int,
    max_model_len: int,
    window_page: int = WINDOW_PAGE,
) -> Shape:
    """DeepSeek V4: a window, and beside it what layers of each compression ratio attend to.

    A ratio of 0 is a window alone; one of 4 or less comes with the indexer's picks, a larger one
    with all states there are. `block_size` is vLLM's, in tokens before compression.
    """
    layers = []
    for ratio in sorted(set(ratios)):
        if ratio == 0:
            layers.append(Layer(widths=(window,), page_sizes=(window_page,)))
            continue
        states = -(-max_model_len // ratio)
        entries = min(index_topk, states) if ratio <= 4 else states
        pages = (window_page, max(1, block_size // ratio))
        layers.append(Layer(widths=(window, _aligned(entries)), page_sizes=pages))
    return Shape(
        layout=V4,
        heads=heads,
        width=V4.head_dim,
        layers=tuple(layers),
        sink=True,
        lengths=True,
        prefill_lengths=(True,),
    )


def v32_shape(*, heads: int, index_topk: int, rope_dim: int, lengths: bool = False) -> Shape:
    """DeepSeek V3.2 and GLM-5.x: the indexer's picks alone, without sink. `lengths`: of each row
    some count, as where ranks share contexts.
    """
    layer = Layer(widths=(_aligned(index_topk),), page_sizes=(V32_PAGE,))
    return Shape(
        layout=V32,
        heads=heads,
        width=V32.nope_dim + rope_dim,
        layers=(layer,),
        sink=False,
        lengths=lengths,
        prefill_lengths=(False, True),  # older releases, newer ones
    )


def from_config(vllm_config: Any) -> Shape | None:
    """Read a model's shape from vLLM's configuration, or None for one without sparse MLA."""
    if vllm_config.model_config is None:
        return None
    hf = vllm_config.model_config.hf_text_config
    index_topk, rope_dim = getattr(hf, "index_topk", None), getattr(hf, "qk_rope_head_dim", None)
    if index_topk is None or rope_dim is None:
        return None
    parallel = vllm_config.parallel_config
    heads = -(-hf.num_attention_heads // parallel.tensor_parallel_size)
    # Where ranks share a cache, each attends for the heads of all of them.
    ranks = getattr(parallel, "decode_context_parallel_size", 1)
    heads *= ranks
    ratios = ratios_of(hf)
    if not ratios:
        return v32_shape(heads=heads, index_topk=index_topk, rope_dim=rope_dim, lengths=ranks > 1)
    return v4_shape(
        heads=heads,
        window=hf.sliding_window,
        index_topk=index_topk,
        ratios=ratios,
        window_page=window_page(hf),
        block_size=vllm_config.cache_config.block_size,
        max_model_len=vllm_config.model_config.max_model_len,
    )


def variants(shape: Shape) -> tuple[Variant, ...]:
    """List the calls that compile everything."""
    found = [Variant(layer=None, splits=1, lengths=given) for given in shape.prefill_lengths]
    merged: set[int] = set()
    for layer in shape.layers:
        tiles = _tiles(layer)
        found.append(Variant(layer=layer, splits=1, lengths=shape.lengths))
        if tiles < 2:
            continue
        rounded = {1 << bit for bit in range(1, (tiles - 1).bit_length() + 1)}
        # The first split of a layer compiles its kernel; merges are the same for all layers.
        for most in sorted(rounded - merged or {2}):
            # Programs take whole tiles, so their number may come out smaller, not below a half.
            splits = -(-tiles // -(-tiles // min(most, tiles)))
            found.append(Variant(layer=layer, splits=splits, lengths=shape.lengths))
        merged |= rounded
    return tuple(found)


def warm_up(shape: Shape, device: torch.device, *, todo: Sequence[Variant] | None = None) -> float:
    """Run `todo`, all variants by default, on empty inputs; return the seconds it took."""
    started = time.perf_counter()
    todo = variants(shape) if todo is None else todo
    for variant in todo:
        if variant.layer is None:
            _prefill(shape, variant, device)
        else:
            _decode(shape, variant, variant.layer, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    took = time.perf_counter() - started
    logger.info("Sparse MLA on SM12x: %d kernel variants are ready after %.1f s.", len(todo), took)
    return took


def _decode(shape: Shape, variant: Variant, layer: Layer, device: torch.device) -> None:
    from ..kernels.decode import sparse_decode
    from ..kernels.tiles import Limits, read_limits

    scopes = []
    for width, page_size in zip(layer.widths, layer.page_sizes, strict=True):
        cache = layouts.empty_cache(shape.layout, 2, page_size, fill=0, device=device)
        indices = torch.full((1, width), -1, dtype=torch.int32, device=device)
        lengths = _zeros(1, device=device, dtype=torch.int32) if variant.lengths else None
        scopes.append(Scope(cache=cache, indices=indices, lengths=lengths))
    limits, whole = read_limits(), variant.splits == 1
    if not whole:
        entries = BLOCK_ENTRIES * -(-_tiles(layer) // variant.splits)
        limits = Limits(head_block=limits.head_block, entries=entries, rows=limits.rows)
    q, out, lse = _rows(shape, device)
    sparse_decode(
        q, scopes, scale=1.0, sink=_sink(shape, device), out=out, lse=lse, limits=limits,
        batch_invariant=whole,
    )  # fmt: skip


def _prefill(shape: Shape, variant: Variant, device: torch.device) -> None:
    from ..kernels.prefill import sparse_prefill

    q, out, lse = _rows(shape, device)
    kv = _zeros(1, shape.width, device=device, dtype=torch.bfloat16)
    indices = torch.full((1, ALIGNMENT), -1, dtype=torch.int32, device=device)
    lengths = _zeros(1, device=device, dtype=torch.int32) if variant.lengths else None
    sparse_prefill(
        q, kv, indices, scale=1.0, sink=_sink(shape, device), lengths=lengths, out=out,
        max_logits=torch.empty_like(lse), lse=lse,
    )  # fmt: skip


def _rows(shape: Shape, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One query row, and where its output and LSE go."""
    q = _zeros(1, shape.heads, shape.width, device=device, dtype=torch.bfloat16)
    out = q.new_empty((1, shape.heads, 512))
    return q, out, q.new_empty((1, shape.heads), dtype=torch.float32)


def _sink(shape: Shape, device: torch.device) -> torch.Tensor | None:
    return _zeros(shape.heads, device=device, dtype=torch.float32) if shape.sink else None


def _zeros(*size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(size, dtype=dtype, device=device)


def _tiles(layer: Layer) -> int:
    return sum(-(-width // BLOCK_ENTRIES) for width in layer.widths)


def _aligned(entries: int) -> int:
    return -(-entries // ALIGNMENT) * ALIGNMENT
