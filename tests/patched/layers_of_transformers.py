# SPDX-License-Identifier: Apache-2.0
"""Layers of the transformers library over steps of several requests, for whole layers to match.

Keys go through the packed caches and the indexer's queries and keys through e4m3 on the library's
side too, by hooks, so that both sides pick from the same numbers. Each request's pages are others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

HEADS, WIDTH, INDEX_HEADS, INDEX_DIM = 8, 64, 4, 128


@dataclass(frozen=True, kw_only=True)
class Request:
    """`context` tokens in all, of which the last `new` are computed in this step."""

    context: int
    new: int

    @property
    def positions(self) -> list[int]:
        """The places of its new tokens."""
        return list(range(self.context - self.new, self.context))


# Two decodes of other lengths, a prompt from its start, and the last piece of a longer one.
STEP = (
    Request(context=70, new=1),
    Request(context=290, new=1),
    Request(context=9, new=9),
    Request(context=262, new=5),
)
DECODES = 2
OWNERS = [owner for owner, request in enumerate(STEP) for _ in range(request.new)]
PLACES = [place for request in STEP for place in request.positions]


def tables(page: int, seed: int) -> Any:
    """Page tables of the step's requests, (requests, blocks) int32: no two share a page."""
    import torch

    blocks = -(-max(request.context for request in STEP) // page)
    pages = torch.randperm(blocks * len(STEP), generator=torch.Generator().manual_seed(seed))
    return pages.int().view(len(STEP), blocks)


def slots_of(table: Any, owner: int, places: Any, page: int) -> Any:
    """Where places of a request lie in a cache."""
    return table[owner][places // page].long() * page + places % page


class Fp8:
    """Rows in e4m3 with a scale each that is a power of two, as the indexer's are."""

    def __init__(self, values: Any) -> None:
        import torch

        largest = values.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 448
        self.scales = torch.exp2(torch.ceil(torch.log2(largest)))
        self.values = (values / self.scales).to(torch.float8_e4m3fn)

    @property
    def rounded(self) -> Any:
        """The numbers that they stand for."""
        return self.values.float() * self.scales


@dataclass(kw_only=True)
class Noted:
    """What one request's run of a layer saw: rows are tokens, states are keys of the indexer."""

    query: Any = None  # (tokens, heads, width of the layer's keys)
    index_q: Any = None
    index_k: Any = None
    index_weights: Any = None


def index_cache(table: Any, page: int, keys: list[Any]) -> Any:
    """The indexer's paged cache with each request's keys, NaN wherever nobody wrote."""
    import torch

    cache = torch.full((table.numel(), page * (INDEX_DIM + 4)), 255, dtype=torch.uint8)
    for owner, some in enumerate(keys):
        for place in range(len(some.values)):
            block, inner = int(table[owner, place // page]), place % page
            row = some.values[place].view(torch.uint8)
            cache[block, inner * INDEX_DIM :][:INDEX_DIM] = row
            scale = some.scales[place].float().view(torch.uint8)
            cache[block, page * INDEX_DIM + inner * 4 :][:4] = scale
    return cache.view(-1, page, 1, INDEX_DIM + 4)


def picked(
    ops: Any, table: Any, page: int, noted: list[Noted], counts: list[int], topk: int, width: int
) -> Any:
    """Local picks (tokens, width) of the step, by our logits.

    Decodes have them of paged keys, prompts of gathered ones. A row sees the first `counts` keys of
    its request.
    """
    import torch

    cache = index_cache(table, page, [one.index_k for one in noted])
    rows = [(one.index_q.values, one.index_weights * one.index_q.scales[..., 0]) for one in noted]
    q = torch.cat([r[0][-request.new :] for r, request in zip(rows, STEP, strict=True)])
    weights = torch.cat([r[1][-request.new :] for r, request in zip(rows, STEP, strict=True)])
    weights = weights.float().contiguous()
    seen = torch.tensor(counts, dtype=torch.int32)
    longest = table.shape[1] * page
    decoded = ops.fp8_fp4_paged_mqa_logits(
        (q[:DECODES].unsqueeze(1), None), cache, weights[:DECODES], seen[:DECODES, None],
        table[:DECODES], torch.zeros(1), longest, False,
    )  # fmt: skip
    gathered: list[Any] = []
    scales: list[Any] = []
    first: dict[int, int] = {}
    for owner in range(DECODES, len(STEP)):
        first[owner] = sum(len(keys) for keys in gathered)
        places = torch.arange(len(noted[owner].index_k.values))
        slots = slots_of(table, owner, places, page)
        blocks, inner = slots // page, slots % page
        flat = cache.view(len(cache), -1)
        keys = flat[:, : page * INDEX_DIM].view(-1, page, INDEX_DIM)[blocks, inner]
        gathered.append(keys.view(torch.float8_e4m3fn))
        tails = flat[:, page * INDEX_DIM :].view(torch.float32).view(-1, page)
        scales.append(tails[blocks, inner])
    starts = torch.tensor([first[owner] for owner in OWNERS[DECODES:]], dtype=torch.int32)
    prompts = ops.fp8_fp4_mqa_logits(
        (q[DECODES:], None), (torch.cat(gathered), torch.cat(scales)), weights[DECODES:], starts,
        starts + seen[DECODES:], False,
    )  # fmt: skip
    picks = torch.full((len(OWNERS), width), -1, dtype=torch.int32)
    for row, count in enumerate(counts):
        if row < DECODES:
            logits = decoded[row, :count]
        else:
            start = int(starts[row - DECODES])
            logits = prompts[row - DECODES, start : start + count]
        best = logits.topk(min(topk, count)).indices
        picks[row, : len(best)] = best.int()
    return picks


@contextmanager
def attending(modeling: ModuleType, attend: Callable[..., Any]) -> Iterator[None]:
    """Let layers call `attend(original, layer, q, k, v, mask, **others)` for attention."""
    original = modeling.eager_attention_forward

    def instead(*args: Any, **others: Any) -> Any:
        return attend(original, *args, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "eager_attention_forward", instead)
        yield


def same(found: Any, expected: Any) -> None:
    """Hold outputs (rows, width) to each other: bfloat16 outputs and queries move them so much."""
    error = (found.double() - expected.double()).norm(dim=-1) / expected.double().norm(dim=-1)
    assert float(error.max()) < 1.5e-2, error
