# SPDX-License-Identifier: Apache-2.0
"""What `selftest` runs of attention: models' calls, with inputs and what must come out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch

from .. import layouts
from ..layouts import V4, V32, Layout
from ..layouts.scope import Scope
from ..ops.flash_mla import flash_mla_sparse_fwd, flash_mla_with_kvcache
from ..reference import decode, prefill
from .trials import Trial, sample
from .verdicts import Verdict, judge_attention

HEADS = (8, 16, 32, 64, 128)
ROWS = (1, 64)
PREFILL_ROWS = 512
# Every so many entries are -1, and a row is this much shorter than the one before.
INVALID_EACH = 37
SHORTER = 3
# So many pages are written value by value; a larger cache holds them again and again.
PACKED_PAGES = 64


class Kind(str, Enum):
    """Which operator, and how it is called."""

    DECODE = "decode"
    PAGED_PREFILL = "prefill from pages"
    PREFILL = "prefill"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A kind of layer: entries a row, and tokens a page, of its scopes; RoPE values of a key."""

    name: str
    layout: Layout
    widths: tuple[int, ...]
    page_sizes: tuple[int, ...]
    rope_dim: int = 64

    @property
    def width(self) -> int:
        """Numbers of a query and of a key."""
        return self.layout.nope_dim + self.rope_dim


@dataclass(frozen=True, kw_only=True)
class Case:
    """A layer with so many heads a rank and query rows."""

    model: Model
    kind: Kind
    heads: int
    rows: int

    def __str__(self) -> str:
        return f"{self.model.name}, {self.kind.value}, {self.heads} heads, rows {self.rows}"

    @property
    def checked(self) -> list[int]:
        """The rows that are compared: the first and the last, and some between."""
        return sample(self.rows)

    def trial(self, device: torch.device) -> Trial:
        """Make the inputs, the same for every device."""
        inputs = build(self, device)

        def check() -> Verdict:
            rows = self.checked
            out, lse = inputs.run()
            return judge_attention(out[rows], lse[rows], *inputs.reference(rows))

        return Trial(
            run=inputs.run,
            check=check,
            moved_bytes=inputs.moved_bytes,
            operations=inputs.operations,
        )


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What to run, and what must come out.

    `run` returns the output (rows, heads, 512) and the LSE (rows, heads), `reference` those of the
    rows it is given, in float64. `moved_bytes`: distinct keys, queries and outputs, each once.
    `operations`: multiplications and additions of both products.
    """

    run: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    reference: Callable[[list[int]], tuple[torch.Tensor, torch.Tensor]]
    moved_bytes: int
    operations: int


MODELS = (
    Model(name="V4 window", layout=V4, widths=(128,), page_sizes=(64,)),
    Model(name="V4-Flash C4A", layout=V4, widths=(128, 512), page_sizes=(64, 64)),
    Model(name="V4-Pro C4A", layout=V4, widths=(128, 1024), page_sizes=(64, 64)),
    Model(name="V4 C128A", layout=V4, widths=(128, 1024), page_sizes=(64, 2)),
    Model(name="V3.2 and GLM-5.2", layout=V32, widths=(2048,), page_sizes=(64,)),
    Model(name="GLM without RoPE", layout=V32, widths=(2048,), page_sizes=(64,), rope_dim=0),
)


def every(*, quick: bool) -> tuple[Case, ...]:
    """List all cases, or one of each kind for every model."""
    found = []
    for model in MODELS:
        for heads in HEADS if not quick else (32,):
            for rows in ROWS:
                found.append(Case(model=model, kind=Kind.DECODE, heads=heads, rows=rows))
            for kind in (Kind.PAGED_PREFILL, Kind.PREFILL):
                rows = PREFILL_ROWS if not quick else 64
                found.append(Case(model=model, kind=kind, heads=heads, rows=rows))
    return tuple(found)


def small() -> tuple[Case, ...]:
    """List cases that an interpreter on a CPU gets through in seconds."""
    window = Model(name="V4 window", layout=V4, widths=(64,), page_sizes=(64,))
    both = Model(name="V4 C128A", layout=V4, widths=(64, 64), page_sizes=(64, 2))
    glm = Model(name="GLM without RoPE", layout=V32, widths=(64,), page_sizes=(64,), rope_dim=0)
    v32 = Model(name="V3.2", layout=V32, widths=(160,), page_sizes=(64,))
    return (
        Case(model=window, kind=Kind.DECODE, heads=8, rows=1),
        Case(model=both, kind=Kind.DECODE, heads=20, rows=2),
        Case(model=glm, kind=Kind.DECODE, heads=8, rows=1),
        Case(model=v32, kind=Kind.DECODE, heads=8, rows=1),
        Case(model=v32, kind=Kind.PREFILL, heads=8, rows=2),
    )


def build(case: Case, device: torch.device) -> Inputs:
    """Make the inputs of a case, the same for every device."""
    generator = torch.Generator().manual_seed(case.heads * 1000 + case.rows)
    q = torch.randn(case.rows, case.heads, case.model.width, generator=generator)
    q = q.bfloat16().to(device)
    sink = torch.randn(case.heads, generator=generator).to(device)
    if case.kind is Kind.PREFILL:
        return _prefill(case, q, sink, generator)
    return _decode(case, q, sink, generator)


def _decode(case: Case, q: torch.Tensor, sink: torch.Tensor, generator: torch.Generator) -> Inputs:
    model = case.model
    scopes = [
        _scope(case, width, page_size, generator, q.device)
        for width, page_size in zip(model.widths, model.page_sizes, strict=True)
    ]
    scale = model.width**-0.5
    near, far = scopes[0], scopes[1] if len(scopes) > 1 else None

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        out, lse = flash_mla_with_kvcache(
            q.unsqueeze(1), near.cache.unsqueeze(2), None, None, 512, None, softmax_scale=scale,
            is_fp8_kvcache=True, indices=near.indices.unsqueeze(1), topk_length=near.lengths,
            attn_sink=sink,
            extra_k_cache=far.cache.unsqueeze(2) if far else None,
            extra_indices_in_kvcache=far.indices.unsqueeze(1) if far else None,
            extra_topk_length=far.lengths if far else None,
        )  # fmt: skip
        return out.squeeze(1), lse.squeeze(2)

    def reference(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        few = [_pick(scope, rows) for scope in scopes]
        return decode.sparse_decode(q[rows], few, scale=scale, sink=sink)

    counts = [_counted(scope) for scope in scopes]
    stored = [scope.cache.shape[0] * scope.cache.shape[1] for scope in scopes]
    distinct = sum(min(pair) for pair in zip(counts, stored, strict=True))
    entry_bytes = model.layout.token_bytes - 2 * (model.layout.rope_dim - model.rope_dim)
    return Inputs(
        run=run,
        reference=reference,
        moved_bytes=distinct * entry_bytes + _bytes(q),
        operations=_operations(q, sum(counts)),
    )


def _prefill(case: Case, q: torch.Tensor, sink: torch.Tensor, generator: torch.Generator) -> Inputs:
    width, device = case.model.width, q.device
    picks = sum(case.model.widths)
    kv = torch.randn(4 * picks, 1, width, generator=generator).bfloat16().to(device)
    indices, lengths = _indices(case.rows, picks, len(kv), generator, device, distinct=False)
    scale = width**-0.5

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        out, _, lse = flash_mla_sparse_fwd(
            q, kv, indices.unsqueeze(1), scale, attn_sink=sink, topk_length=lengths
        )
        return out, lse

    def reference(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        out, _, lse = prefill.sparse_prefill(
            q[rows], kv.squeeze(1), indices[rows], scale=scale, sink=sink, lengths=lengths[rows]
        )
        return out, lse

    entries = int(lengths.sum())
    return Inputs(
        run=run,
        reference=reference,
        moved_bytes=min(entries, len(kv)) * 2 * width + _bytes(q),
        operations=_operations(q, entries),
    )


def _scope(
    case: Case, width: int, page_size: int, generator: torch.Generator, device: torch.device
) -> Scope:
    """A cache whose last page is unused and holds NaN, and rows that point all over the rest.

    Rows of a decode are of different requests and share no entry; those of a prefill do.
    """
    layout = case.model.layout
    decodes = case.kind is Kind.DECODE
    pages = max(2, (case.rows if decodes else 4) * width // page_size)
    packed = min(pages, PACKED_PAGES)
    cache = layouts.empty_cache(layout, pages + 1, page_size, fill=255, device=device)
    kv = torch.randn(packed * page_size, layout.head_dim, generator=generator).to(device)
    layouts.pack(cache, torch.arange(packed * page_size, device=device), kv)
    for first in range(packed, pages, packed):
        last = min(first + packed, pages)
        cache[first:last] = cache[: last - first]
    used = pages * page_size
    indices, lengths = _indices(case.rows, width, used, generator, device, distinct=decodes)
    return Scope(cache=cache, indices=indices, lengths=lengths)


def _indices(
    rows: int,
    width: int,
    used: int,
    generator: torch.Generator,
    device: torch.device,
    *,
    distinct: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Picks below `used` with -1 among them; behind a row's length they point to what is unused.

    Lengths are between three quarters of the width and all of it; the last of some rows has none.
    """
    if distinct and used >= rows * width:
        indices = torch.randperm(used, generator=generator)[: rows * width].view(rows, width).int()
    else:
        indices = torch.randint(0, used, (rows, width), generator=generator, dtype=torch.int32)
    indices.view(-1)[::INVALID_EACH] = -1
    lengths = width - torch.arange(rows) * SHORTER % (width // 4)
    if rows > 2:
        lengths[-1] = 0
    indices[torch.arange(width) >= lengths.unsqueeze(1)] = used
    return indices.to(device), lengths.int().to(device)


def _pick(scope: Scope, rows: Sequence[int]) -> Scope:
    assert scope.lengths is not None
    chosen = list(rows)
    return Scope(cache=scope.cache, indices=scope.indices[chosen], lengths=scope.lengths[chosen])


def _counted(scope: Scope) -> int:
    assert scope.lengths is not None
    return int(scope.lengths.sum())


def _bytes(q: torch.Tensor) -> int:
    """Queries and outputs."""
    rows, heads, width = q.shape
    return int(2 * rows * heads * (width + 512))


def _operations(q: torch.Tensor, entries: int) -> int:
    return int(2 * q.shape[1] * entries * (q.shape[2] + 512))
