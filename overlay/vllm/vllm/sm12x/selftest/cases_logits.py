# SPDX-License-Identifier: Apache-2.0
"""What `selftest` runs of the indexer's logits, as models call for them where DeepGEMM can't."""

from dataclasses import dataclass

import torch

from ..ops import deep_gemm
from ..reference import logits
from .trials import Runnable, Trial, bytes_of, fp8_noise, pick_fp8, sample
from .verdicts import Verdict, judge_logits

CONTEXTS = (8192, 131072)
NEXT_N = (1, 2)
REQUESTS = (1, 32)
# With V3.2's keys of the longest context this many rows of logits fill the cap of 256 MiB.
PROMPT_ROWS = 512
# Requests differ in length by so much, and the last of several has no key at all.
SHORTER = 37


@dataclass(frozen=True, kw_only=True)
class Model:
    """An indexer: query heads, and context tokens a key of its cache stands for."""

    name: str
    heads: int
    ratio: int = 1
    dim: int = 128
    page_size: int = 64


MODELS = (
    Model(name="V4", heads=64, ratio=4),
    Model(name="V3.2", heads=64),
    Model(name="GLM-5", heads=32),
)


@dataclass(frozen=True, kw_only=True)
class PromptLogits:
    """Logits of the last `rows` tokens of a context over gathered keys."""

    model: Model
    context: int
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.model.name} indexer, prompt, {self.model.heads} heads, "
            f"context {self.context}, rows {self.rows}"
        )

    def trial(self, device: torch.device) -> Trial:
        """Make keys that each row sees up to its own token."""
        generator = torch.Generator().manual_seed(self.context + self.rows)
        model, keys = self.model, self.context // self.model.ratio
        q = fp8_noise(self.rows, model.heads, model.dim, generator=generator).to(device)
        k = fp8_noise(keys, model.dim, generator=generator).to(device)
        scales = torch.randn(keys, generator=generator).exp().to(device)
        weights = torch.randn(self.rows, model.heads, generator=generator).to(device)
        first = torch.zeros(self.rows, dtype=torch.int32, device=device)
        positions = torch.arange(self.context - self.rows, self.context, device=device)
        end = ((positions + 1) // model.ratio).int()

        def logits_of(clean: bool) -> torch.Tensor:
            return deep_gemm.fp8_fp4_mqa_logits(
                (q, None), (k, scales), weights, first, end, clean_logits=clean
            )

        def check() -> Verdict:
            rows = sample(self.rows)
            expected = logits.mqa_logits(
                pick_fp8(q, rows), k, scales, weights[rows], first[rows], end[rows]
            )
            return judge_logits(logits_of(True)[rows], expected)

        pairs = int(end.sum())
        return Trial(
            run=lambda: logits_of(False),  # as vLLM calls it
            check=check,
            moved_bytes=bytes_of(q, k, scales, weights) + 4 * pairs,
            operations=2 * pairs * model.heads * model.dim,
        )


@dataclass(frozen=True, kw_only=True)
class PagedLogits:
    """Logits of `next_n` query tokens of each request over a paged cache."""

    model: Model
    context: int
    requests: int
    next_n: int

    def __str__(self) -> str:
        return (
            f"{self.model.name} indexer, decode, {self.model.heads} heads, "
            f"context {self.context}, requests {self.requests}, next_n {self.next_n}"
        )

    def trial(self, device: torch.device) -> Trial:
        """Make a cache whose last page is unused and holds NaN; stale entries point to it."""
        generator = torch.Generator().manual_seed(self.context + 10 * self.requests + self.next_n)
        model, keys = self.model, self.context // self.model.ratio
        blocks = -(-keys // model.page_size)
        cache = _paged(self.requests * blocks, model, generator).to(device)
        q = fp8_noise(self.requests, self.next_n, model.heads, model.dim, generator=generator).to(
            device
        )
        weights = torch.randn(self.requests * self.next_n, model.heads, generator=generator)
        weights = weights.to(device)
        ends = (keys - SHORTER * torch.arange(self.requests)).clamp(min=self.next_n)
        if self.requests > 2:
            ends[-1] = 0
        lengths = (ends.unsqueeze(1) - torch.arange(self.next_n).flip(0)).clamp(min=0)
        table = torch.randperm(self.requests * blocks, generator=generator).view(-1, blocks)
        table[torch.arange(blocks) * model.page_size >= ends.unsqueeze(1)] = len(cache) - 1
        lengths, table = lengths.int().to(device), table.int().to(device)
        # The schedule isn't looked at, so it isn't worth asking how many SMs there are.
        schedule = deep_gemm.get_paged_mqa_logits_metadata(lengths, model.page_size, 1)

        def logits_of(clean: bool) -> torch.Tensor:
            return deep_gemm.fp8_fp4_paged_mqa_logits(
                (q, None), cache.unsqueeze(2), weights, lengths, table, schedule, keys,
                clean_logits=clean,
            )  # fmt: skip

        def check() -> Verdict:
            expected = logits.paged_mqa_logits(q, cache, weights, lengths, table, keys)
            return judge_logits(logits_of(True), expected)

        pairs = int(lengths.sum())
        return Trial(
            run=lambda: logits_of(False),
            check=check,
            moved_bytes=int(ends.sum()) * (model.dim + 4) + bytes_of(q, weights) + 4 * pairs,
            operations=2 * pairs * model.heads * model.dim,
        )


def every(*, quick: bool) -> tuple[Runnable, ...]:
    """List all cases, or those of the short context."""
    found: list[Runnable] = []
    for model in MODELS:
        for context in CONTEXTS if not quick else CONTEXTS[:1]:
            found.append(PromptLogits(model=model, context=context, rows=PROMPT_ROWS))
            # Many requests of the longest context would be a cache of half a gigabyte.
            for requests in REQUESTS if context == CONTEXTS[0] else REQUESTS[:1]:
                found += [
                    PagedLogits(model=model, context=context, requests=requests, next_n=next_n)
                    for next_n in NEXT_N
                ]
    return tuple(found)


def small() -> tuple[Runnable, ...]:
    """List cases that an interpreter on a CPU gets through in seconds."""
    v4 = Model(name="V4", heads=8, ratio=4, dim=64)
    v32 = Model(name="V3.2", heads=16, dim=32)
    return (
        PromptLogits(model=v4, context=300, rows=3),
        PromptLogits(model=v32, context=70, rows=2),
        PagedLogits(model=v4, context=600, requests=1, next_n=1),
        PagedLogits(model=v32, context=130, requests=3, next_n=2),
    )


def _paged(pages: int, model: Model, generator: torch.Generator) -> torch.Tensor:
    """So many pages and one more that holds NaN, (pages + 1, page size, dim + 4) uint8."""
    values = model.page_size * model.dim
    cache = torch.full((pages + 1, model.page_size * (model.dim + 4)), 255, dtype=torch.uint8)
    cache[:-1, :values] = fp8_noise(pages, values, generator=generator).view(torch.uint8)
    scales = torch.randn(pages, model.page_size, generator=generator).exp()
    cache[:-1, values:] = scales.view(torch.uint8)
    return cache.view(pages + 1, model.page_size, model.dim + 4)
