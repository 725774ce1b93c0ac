# SPDX-License-Identifier: Apache-2.0
"""Compiles what stands in for DeepGEMM before the first request, as `warmup` does for attention.

Kernels depend on a model's dims, on whether a program takes one or two query tokens, and on a tile
that is chosen by the number of rows; not on how many rows, keys or pages there are.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch

from .. import envs
from ..ops import deep_gemm
from ..support.compression import ratios_of

logger = logging.getLogger(__name__)

V32_PAGE = 64
# The compression of the layers that have an indexer.
V4_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class Indexer:
    """Heads and width of the indexer's queries, tokens a page, and query tokens of a request."""

    heads: int
    dim: int
    page_size: int
    next_n: int


@dataclass(frozen=True, kw_only=True)
class Projection:
    """V4's grouped output projection on one rank: groups, outputs and inputs of each."""

    groups: int
    width: int
    depth: int


@dataclass(frozen=True, kw_only=True)
class Connection:
    """HyperConnection's matrix: columns of its transpose, and numbers of a row."""

    columns: int
    depth: int


@dataclass(frozen=True, kw_only=True)
class GemmShape:
    """What of a model decides about kernels."""

    indexer: Indexer | None
    projection: Projection | None
    connection: Connection | None


def from_config(vllm_config: Any) -> GemmShape | None:
    """Read a model's shape from vLLM's configuration, or None for one without an indexer."""
    if vllm_config.model_config is None:
        return None
    hf = vllm_config.model_config.hf_text_config
    heads, dim = getattr(hf, "index_n_heads", None), getattr(hf, "index_head_dim", None)
    if heads is None or dim is None:
        return None
    drafts = vllm_config.speculative_config
    next_n = 1 if drafts is None else 1 + drafts.num_speculative_tokens
    if not ratios_of(hf):
        indexer = Indexer(heads=heads, dim=dim, page_size=V32_PAGE, next_n=next_n)
        return GemmShape(indexer=indexer, projection=None, connection=None)
    size = vllm_config.cache_config.block_size // V4_RATIO
    return GemmShape(
        indexer=Indexer(heads=heads, dim=dim, page_size=size, next_n=next_n),
        projection=Projection(
            groups=-(-hf.o_groups // vllm_config.parallel_config.tensor_parallel_size),
            width=hf.o_lora_rank,
            depth=hf.num_attention_heads * hf.head_dim // hf.o_groups,
        ),
        connection=Connection(
            columns=hf.hc_mult * (hf.hc_mult + 2), depth=hf.hc_mult * hf.hidden_size
        ),
    )


def warm_up(shape: GemmShape, device: torch.device) -> float:
    """Run every variant on next to nothing; return the seconds it took."""
    started = time.perf_counter()
    variants = 0
    if shape.indexer is not None:
        variants += _logits(shape.indexer, device)
    if shape.projection is not None:
        variants += _einsum(shape.projection, device)
    if shape.connection is not None:
        variants += _prenorm(shape.connection, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    took = time.perf_counter() - started
    logger.info("In DeepGEMM's place: %d kernel variants are ready after %.1f s.", variants, took)
    return took


def _logits(shape: Indexer, device: torch.device) -> int:
    """One key and one page for queries that see neither."""
    queries = _fp8(1, shape.heads, shape.dim, device=device)
    scales, weights = (torch.zeros(1, n, device=device) for n in (1, shape.heads))
    nothing = torch.zeros(1, dtype=torch.int32, device=device)
    keys = _fp8(1, shape.dim, device=device)
    deep_gemm.fp8_fp4_mqa_logits(
        (queries, None), (keys, scales[0]), weights, nothing, nothing, False
    )
    tiled = envs.get(deep_gemm.TILED)
    # The simple kernel takes any number of query tokens as it is, the tiled one two at a time.
    steps = {1, shape.next_n} if tiled and shape.next_n > 1 else {1}
    for tokens in steps:
        cache = torch.zeros(2, shape.page_size, 1, shape.dim + 4, dtype=torch.uint8, device=device)
        lengths = torch.zeros(1, tokens, dtype=torch.int32, device=device)
        deep_gemm.fp8_fp4_paged_mqa_logits(
            (_fp8(1, tokens, shape.heads, shape.dim, device=device), None), cache,
            torch.zeros(tokens, shape.heads, device=device), lengths,
            torch.zeros(1, 1, dtype=torch.int32, device=device), nothing, shape.page_size, False,
        )  # fmt: skip
    return 1 + len(steps)


def _einsum(shape: Projection, device: torch.device) -> int:
    """Every tile with and without splits, and scales as vLLM makes them on SM12x."""
    from ..kernels.fp8_einsum import fp8_einsum
    from ..kernels.gemm_tiles import EINSUM_PROMPT, EINSUM_TILES, GROUP, EinsumPlan

    blocks = shape.depth // GROUP
    a = _fp8(shape.groups, 1, shape.depth, device=device).transpose(0, 1)
    words = torch.zeros(shape.groups, -(-blocks // 4), 4, dtype=torch.int32, device=device)
    b = _fp8(shape.groups, shape.width, shape.depth, device=device)
    b_scale = torch.zeros(shape.groups, shape.width // GROUP, blocks, device=device)
    out = torch.zeros(1, shape.groups, shape.width, dtype=torch.bfloat16, device=device)
    plans = [
        EinsumPlan(tile=tile, splits=splits)
        for tile in (*EINSUM_TILES.values(), EINSUM_PROMPT)
        for splits in (1, 2)
    ]
    for plan in plans:
        fp8_einsum(a, words[:, :, :1].permute(2, 0, 1), b, b_scale, out, plan=plan)
    return len(plans)


def _prenorm(shape: Connection, device: torch.device) -> int:
    from ..kernels.gemm_tiles import PRENORM_TILES

    fn = torch.zeros(shape.columns, shape.depth, device=device)
    rows = (*PRENORM_TILES, max(PRENORM_TILES) + 1)
    for some in rows:
        x = torch.zeros(some, shape.depth, dtype=torch.bfloat16, device=device)
        out, squares = x.new_zeros(1, some, shape.columns).float(), x.new_zeros(1, some).float()
        deep_gemm.tf32_hc_prenorm_gemm(x, fn, out, squares, 1)
    return len(rows)


def _fp8(*size: int, device: torch.device) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn)
