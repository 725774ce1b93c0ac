# SPDX-License-Identifier: Apache-2.0
"""Captured decode steps: drafts are rows, and rows that pad a batch do no harm.

A step is captured with one content and replayed with others, as vLLM does it: a size of the list,
fewer requests, drafts or none, and behind them rows with whatever metadata was there before.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import interpreted
import pytest
import torch
from replay import Graph, ReadBackError
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4, V32
from vllm.sm12x.layouts.scope import Scope
from vllm.sm12x.ops.flash_mla import flash_mla_with_kvcache, get_mla_metadata
from vllm.sm12x.reference import decode as reference

interpreted.kernels("decode")

HEADS, SCALE, WORST = 2, 0.05, 5e-3
# vLLM's list of sizes up to 512 rows.
SIZES = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
KINDS = ("V4, window", "V4, two scopes", "V3.2", "V3.2, rows of requests")
WILD = 2**31 - 1


@pytest.fixture(autouse=True)
def switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@dataclass(kw_only=True)
class Step:
    """The tensors of a decode step, all at their addresses for good; `drafts` rows a request."""

    kind: str
    size: int
    drafts: int = 1

    def __post_init__(self) -> None:
        self.layout = V4 if self.kind.startswith("V4") else V32
        self.lengths = [torch.zeros(self.size, dtype=torch.int32) for _ in range(2)]
        self.indices = [torch.zeros(self.size, width, dtype=torch.int32) for width in (32, 20)]
        self.q = noise(self.size, HEADS, self.layout.head_dim)
        self.out = torch.full((self.size, HEADS, 512), math.nan, dtype=torch.bfloat16)
        self.caches = [cache(self.layout, pages, page) for pages, page in ((3, 64), (40, 2))]
        self.scopes = 2 if self.kind == "V4, two scopes" else 1

    def fill(self, rows: int, seed: int) -> None:
        """Let the first `rows` be real, and stale what stands behind them."""
        generator = torch.Generator().manual_seed(seed)
        self.q.copy_(noise(*self.q.shape, seed=seed))
        for scope in range(2):
            picks, lengths = self.indices[scope], self.lengths[scope]
            slots = math.prod(self.caches[scope].shape[:2]) - 8
            picks.copy_(torch.randint(0, slots, picks.shape, generator=generator))
            most = picks.shape[1] + 1
            lengths.copy_(torch.randint(1, most, lengths.shape, generator=generator))
            lengths[rows:] = 0
            # What an earlier step left there, slots that were never written among it.
            picks[rows:] += 7
            picks[rows:, ::3] = torch.tensor([WILD, -5, slots + 3][seed % 3])
            if self.layout is V32:
                places = torch.arange(picks.shape[1])
                picks[:rows].masked_fill_(places >= lengths[:rows, None], -1)

    def run(self) -> None:
        """Call the operator as vLLM's layers do."""
        one = self.kind == "V3.2"
        shape = (1, self.size) if one else (self.size // self.drafts, self.drafts)
        call: dict[str, torch.Tensor] = {}
        if self.layout is V4:
            call = {"topk_length": self.lengths[0], "attn_sink": torch.ones(HEADS)}
        if self.scopes == 2:
            call["extra_k_cache"] = self.caches[1].unsqueeze(-2)
            call["extra_indices_in_kvcache"] = self.indices[1].view(*shape, -1)
            call["extra_topk_length"] = self.lengths[1]
        flash_mla_with_kvcache(
            q=self.q.view(*shape, HEADS, -1), k_cache=self.caches[0].unsqueeze(-2),
            block_table=None, cache_seqlens=None, head_dim_v=512, softmax_scale=SCALE,
            tile_scheduler_metadata=get_mla_metadata()[0], is_fp8_kvcache=True,
            indices=self.indices[0].view(*shape, -1), out=self.out.view(*shape, HEADS, 512), **call,
        )  # fmt: skip

    def check(self, rows: int) -> None:
        """Hold the real rows against the reference, and see that the others are harmless."""
        scopes = [
            Scope(
                cache=self.caches[n],
                indices=self.indices[n][:rows],
                lengths=self.lengths[n][:rows] if self.layout is V4 else None,
            )
            for n in range(self.scopes)
        ]
        sink = torch.ones(HEADS) if self.layout is V4 else None
        expected = reference.sparse_decode(self.q[:rows], scopes, scale=SCALE, sink=sink)[0]
        error = (self.out[:rows].double() - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert float(error.max()) < WORST
        if self.layout is V4:
            assert not self.out[rows:].any()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@functools.cache
def cache(layout: layouts.Layout, pages: int, page: int) -> torch.Tensor:
    """A cache whose last slots were never written: every byte of them is 255."""
    made = layouts.empty_cache(layout, pages, page, fill=255)
    slots = torch.arange(pages * page - 8)
    layouts.pack(made, slots, noise(len(slots), layout.head_dim))
    return made


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def forms(kind: str) -> Iterator[int]:
    """Rows of one request in a call: V4's and new V3.2's are always one."""
    yield from (1, 2, 4) if kind == KINDS[-1] else (1,)


def test_at_every_size_a_capture_follows_from_shapes_alone(kind: str) -> None:
    for size in SIZES:
        for drafts in forms(kind):
            if size % drafts:
                continue
            step, found = Step(kind=kind, size=size, drafts=drafts), []
            for rows, seed in ((0, 0), (size, 1), (max(1, size // 3), 2)):
                step.fill(rows, seed)
                with Graph(execute=False) as graph:
                    step.run()
                found.append((graph.launches, graph.allocated))
            assert found[0] == found[1] == found[2], (size, drafts)
            assert 1 <= len(found[0][0]) <= 2


@pytest.mark.parametrize(("requests", "drafts"), [(1, 2), (5, 1), (1, 4)])
def test_a_replay_computes_the_rows_that_are_real(kind: str, drafts: int, requests: int) -> None:
    """Uniform batches: so many requests with the same number of rows, padded to a size."""
    rows = requests * drafts
    size = next(size for size in SIZES if size >= rows)
    size = -(-size // drafts) * drafts
    step = Step(kind=kind, size=size, drafts=drafts if drafts in forms(kind) else 1)
    step.fill(0, 0)
    with Graph() as graph:
        step.run()
    for real, seed in ((rows, 1), (rows - drafts or size, 2)):
        step.fill(real, seed)
        step.out.fill_(math.nan)
        graph.replay()
        step.check(real)


def test_rows_that_pad_a_batch_change_nothing_for_the_others(kind: str) -> None:
    """A mixed batch, one request with three rows and two with one, behind it stale rows."""
    step, outputs = Step(kind=kind, size=8), []
    step.fill(8, 0)
    with Graph() as graph:
        step.run()
    for seed in (4, 5):
        step.fill(5, 3)
        kept = [tensor[:5].clone() for tensor in (step.q, *step.indices, *step.lengths)]
        step.fill(5, seed)
        for tensor, rows in zip((step.q, *step.indices, *step.lengths), kept, strict=True):
            tensor[:5] = rows
        graph.replay()
        step.check(5)
        outputs.append(step.out[:5].clone())
    assert torch.equal(outputs[0], outputs[1])


def test_the_stand_in_for_a_graph_sees_what_a_real_one_refuses() -> None:
    values = torch.tensor([3, 0])
    reads = (lambda: values.tolist(), values[0].item, values.nonzero, lambda: bool(values.any()))
    for read in reads:
        with pytest.raises(ReadBackError), Graph():
            read()
    with Graph() as graph:
        doubled = values * 2
        values.add_(1)
    assert graph.allocated == 16
    graph.replay()
    assert doubled.tolist() == [8, 2]
    assert values.tolist() == [5, 2]
