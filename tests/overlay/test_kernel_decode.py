# SPDX-License-Identifier: Apache-2.0
"""The decode kernels, on Triton's interpreter, against the float64 reference."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import interpreted
import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4, V32, Layout, ScaleRule
from vllm.sm12x.layouts.scope import Scope
from vllm.sm12x.reference import decode as reference

decode, tiles = interpreted.kernels("decode", "tiles")

BOTH = pytest.mark.parametrize("layout", [V4, V32], ids=lambda layout: layout.name)
WHOLE_OR_SPLIT = pytest.mark.parametrize("whole", [True, False], ids=["whole", "split"])
INF = math.inf
WORST_RMS = 5e-3
WORST_LSE = 1e-5


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def picks(*shape: int, below: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, below, shape, generator=generator, dtype=torch.int32)


def numbers(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def cache_of(
    layout: Layout,
    pages: int,
    page_size: int,
    *,
    page_stride: int | None = None,
    unused: Sequence[int] = (),
    rule: ScaleRule = ScaleRule.POWER_OF_TWO,
    seed: int = 1,
) -> torch.Tensor:
    """A cache whose `unused` slots and padding hold NaN in every byte."""
    cache = layouts.empty_cache(layout, pages, page_size, page_stride=page_stride, fill=255)
    slots = torch.tensor([s for s in range(pages * page_size) if s not in unused])
    spread = torch.logspace(-1, 1, len(slots)).unsqueeze(1)
    kv = noise(len(slots), layout.head_dim, seed=seed) * spread.bfloat16()
    layouts.pack(cache, slots, kv, rule=rule)
    return cache


def run(
    q: torch.Tensor,
    scopes: list[Scope],
    *,
    sink: torch.Tensor | None = None,
    whole: bool = True,
    entries: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernels write, into memory that held NaN, once it is what the reference says.

    `entries`: at most so many for a program, instead of what the plan has for a batch like this.
    """
    rows, heads, width = q.shape
    out = torch.full((rows, heads, 512), math.nan, dtype=torch.bfloat16)
    lse = torch.full((rows, heads), math.nan)
    scale = width**-0.5
    decode.sparse_decode(
        q, scopes, scale=scale, sink=sink, out=out, lse=lse, batch_invariant=whole,
        limits=tiles.Limits(entries=entries) if entries else None,
    )  # fmt: skip
    expected, expected_lse = reference.sparse_decode(q, scopes, scale=scale, sink=sink)
    assert_close(out, lse, expected, expected_lse)
    return out, lse


def assert_close(
    out: torch.Tensor, lse: torch.Tensor, expected: torch.Tensor, expected_lse: torch.Tensor
) -> None:
    """Hold the worst row and head to the tolerances; what must be 0 or infinite exactly, is."""
    size = expected.norm(dim=2)
    error = (out.double() - expected).norm(dim=2)
    assert torch.equal(error[size == 0], torch.zeros_like(error[size == 0]))
    assert (error[size > 0] / size[size > 0]).max().item() <= WORST_RMS if size.any() else True
    finite = expected_lse.isfinite()
    assert torch.equal(lse[~finite].double(), expected_lse[~finite])
    if finite.any():
        assert (lse.double() - expected_lse)[finite].abs().max().item() <= WORST_LSE


@BOTH
@pytest.mark.parametrize("heads", [8, 16, 20, 32, 64, 128])
def test_any_number_of_heads_agrees_with_the_reference(layout: Layout, heads: int) -> None:
    cache = cache_of(layout, 2, 64, unused=range(100, 128))
    run(noise(1, heads, layout.head_dim), [Scope(cache=cache, indices=picks(1, 40, below=100))])


@WHOLE_OR_SPLIT
@BOTH
def test_two_scopes_are_one_softmax(layout: Layout, whole: bool) -> None:
    near = cache_of(layout, 3, 64, unused=range(150, 192))
    far = cache_of(layout, 40, 2, unused=range(70, 80), seed=2)
    scopes = [
        Scope(cache=near, indices=picks(2, 70, below=150), lengths=numbers(70, 33)),
        Scope(cache=far, indices=picks(2, 64, below=70, seed=3), lengths=numbers(10, 64)),
    ]
    sink = torch.tensor([-2.0, 0.0, 5.0, -INF] * 2)
    run(noise(2, 8, layout.head_dim), scopes, sink=sink, whole=whole)


@WHOLE_OR_SPLIT
@BOTH
def test_entries_that_do_not_count_are_never_used(layout: Layout, whole: bool) -> None:
    """-1 and slots beyond the cache anywhere, and stale indices of NaN slots behind the length."""
    cache = cache_of(layout, 2, 64, unused=range(60, 128))
    indices = torch.full((3, 128), 100, dtype=torch.int32)
    indices[0, :50] = picks(50, below=60)
    indices[0, [0, 7, 31, 32, 49]] = numbers(-1, 128, 2**31 - 1, -(2**31), 10**6)
    indices[1, :64] = -1
    indices[1, 40] = 5
    indices[2] = 99
    scopes = [Scope(cache=cache, indices=indices, lengths=numbers(50, 64, 0))]
    out, lse = run(noise(3, 8, layout.head_dim), scopes, whole=whole)
    assert out[1].isfinite().all() and not out[2].any() and lse[2].eq(INF).all()


@WHOLE_OR_SPLIT
@BOTH
def test_rows_without_keys_are_zero_whatever_the_sink(layout: Layout, whole: bool) -> None:
    cache = cache_of(layout, 2, 64, unused=range(1, 128))
    none = torch.full((2, 96), -1, dtype=torch.int32)
    scopes = [
        Scope(cache=cache, indices=none),
        Scope(cache=cache, indices=torch.full_like(none, 77), lengths=numbers(0, -3)),
    ]
    sink = torch.tensor([-INF, -1e30, 0.0, 3.0, 1e30, INF, 2.0, 1.0])
    out, lse = run(noise(2, 8, layout.head_dim), scopes, sink=sink, whole=whole)
    assert not out.any() and lse.eq(INF).all()


@WHOLE_OR_SPLIT
def test_a_sink_of_plus_infinity_takes_everything(whole: bool) -> None:
    cache = cache_of(V4, 1, 64)
    sink = torch.tensor([INF, -INF, 1e30, 0.0] * 2)
    scopes = [Scope(cache=cache, indices=picks(1, 64, below=64))]
    out, _ = run(noise(1, 8, 512), scopes, sink=sink, whole=whole)
    assert not out[0, [0, 2]].any() and out[0, 1].any()


@BOTH
def test_an_entry_that_stands_there_twice_counts_twice(layout: Layout) -> None:
    cache = cache_of(layout, 1, 64)
    repeated = numbers(3, 3, 3, 9, 3, 9).repeat(1, 12)
    run(noise(1, 8, layout.head_dim), [Scope(cache=cache, indices=repeated)])


@pytest.mark.parametrize(
    ("pages", "page_size", "page_stride"),
    [(3, 64, 37440), (40, 2, 1728), (40, 2, 1728 * 5), (27, 3, None), (80, 1, None), (1, 64, None)],
)
def test_tokens_are_found_by_the_stride_of_pages(
    pages: int, page_size: int, page_stride: int | None
) -> None:
    cache = cache_of(V4, pages, page_size, page_stride=page_stride)
    indices = picks(1, 64, below=pages * page_size)
    run(noise(1, 8, 512), [Scope(cache=cache, indices=indices)])


@BOTH
def test_a_page_may_lie_beyond_two_gigabytes(layout: Layout) -> None:
    """The storage is reserved, not touched, but for its first and last page."""
    stride = layouts.empty_cache(layout, 1, 64).stride(0)
    pages = 2**31 // stride + 2
    cache = torch.empty(pages * stride, dtype=torch.uint8)
    cache = cache.as_strided((pages, 64, layout.token_bytes), (stride, layout.token_bytes, 1))
    last = (pages - 1) * 64
    slots = torch.cat((torch.arange(64), torch.arange(last, last + 64)))
    layouts.pack(cache, slots, noise(128, layout.head_dim))
    indices = slots[picks(1, 64, below=128).long()].int()
    run(noise(1, 8, layout.head_dim), [Scope(cache=cache, indices=indices)])


FACTORS: dict[str, tuple[Any, ...]] = {
    "layout": (V4, V32),
    "heads": (8, 16, 32, 64, 128),
    "scopes": (1, 2),
    "page_size": (64, 16, 2),
    "entries": (None, 64),
    "contents": ("plain", "stale", "no keys", "twice"),
    "sink": (False, True),
}


def pairwise(factors: dict[str, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Combinations in which every two values of two factors meet, greedily few."""
    everything = list(itertools.product(*factors.values()))
    pairs = {case: set(itertools.combinations(enumerate(case), 2)) for case in everything}
    left = set().union(*pairs.values())
    chosen = []
    while left:
        best = max(everything, key=lambda case: len(pairs[case] & left))
        chosen.append(best)
        left -= pairs[best]
    return chosen


@pytest.mark.parametrize(
    tuple(FACTORS), pairwise(FACTORS), ids=lambda value: getattr(value, "name", str(value))
)
def test_conditions_agree_with_the_reference_in_every_pair(
    layout: Layout,
    heads: int,
    scopes: int,
    page_size: int,
    entries: int | None,
    contents: str,
    sink: bool,
) -> None:
    """The last quarter of each cache holds NaN; rows are split where `entries` says so."""
    made = []
    for place, width in enumerate((96, 64)[:scopes]):
        cache = cache_of(layout, 128 // page_size, page_size, unused=range(96, 128), seed=1 + place)
        indices = picks(2, width, below=96, seed=place)
        lengths = None
        if contents == "stale":
            lengths = numbers(width - 10, 33)
            indices[0, width - 10 :] = 100
            indices[1, 33:] = 127
        elif contents == "no keys":
            indices[1] = -1
        elif contents == "twice":
            indices = indices[:, :5].repeat(1, width)[:, :width].contiguous()
        made.append(Scope(cache=cache, indices=indices, lengths=lengths))
    run(
        noise(2, heads, layout.head_dim), made, sink=noise(heads, seed=9).float() if sink else None,
        whole=entries is None, entries=entries,
    )  # fmt: skip


@pytest.mark.parametrize("rule", list(ScaleRule), ids=lambda rule: rule.value)
@pytest.mark.parametrize("width", [576, 512])
def test_v32_takes_any_scale_with_and_without_rope(rule: ScaleRule, width: int) -> None:
    cache = cache_of(V32, 2, 64, rule=rule)
    run(noise(2, 16, width), [Scope(cache=cache, indices=picks(2, 64, below=128))])


@pytest.mark.parametrize("width", [64, 192, 320])
def test_any_multiple_of_64_indices_will_do(width: int) -> None:
    cache = cache_of(V32, 2, 64)
    run(noise(1, 8, 576), [Scope(cache=cache, indices=picks(1, width, below=128))], whole=False)


@BOTH
def test_every_code_and_every_scale_is_exact(layout: Layout) -> None:
    """With one key a row its value comes out unchanged: powers of two keep it a bfloat16."""
    cache = layouts.empty_cache(layout, 1, 8, fill=0)
    layouts.pack(cache, torch.arange(8), noise(8, layout.head_dim))
    codes = torch.arange(256, dtype=torch.uint8)
    codes[[0x7F, 0xFF]] = 0  # NaN
    exponents = numbers(90, 100, 117, 120, 127, 128, 134, 150)
    rows, scales = layouts.token_offsets(layout, torch.arange(8), 8, cache.stride(0))
    flat = cache.as_strided((cache.stride(0),), (1,))
    for i in range(8):
        flat[rows[i] : rows[i] + layout.nope_dim] = codes.repeat(2).roll(64 * i)[: layout.nope_dim]
        if layout is V4:
            flat[scales[i] : scales[i] + 7] = exponents[torch.arange(i, i + 7) % 8].byte()
        else:
            four = (exponents[torch.arange(i, i + 4) % 8] << 23).view(torch.uint8)
            flat[scales[i] : scales[i] + 16] = four
    q = torch.zeros(8, 8, layout.head_dim, dtype=torch.bfloat16)
    indices = torch.arange(8, dtype=torch.int32).unsqueeze(1)
    out, _ = run(q, [Scope(cache=cache, indices=indices)])
    values = layouts.unpack(cache, torch.arange(8))[:, :512].bfloat16()
    assert torch.equal(out, values.unsqueeze(1).expand_as(out))


def test_strided_tensors_are_read_and_written_in_place() -> None:
    cache = cache_of(V4, 1, 64)
    q = noise(2, 24, 600)[:, ::3, 40:552]
    out = torch.full((2, 20, 512), 7.0, dtype=torch.bfloat16)
    lse = torch.full((2, 16), 7.0)
    indices = picks(2, 80, below=64)[:, :64]
    scopes = [Scope(cache=cache, indices=indices.long())]
    decode.sparse_decode(
        q, scopes, scale=0.05, sink=None, out=out[:, 4:12], lse=lse[:, 8:], batch_invariant=False
    )
    expected = reference.sparse_decode(q, scopes, scale=0.05)
    assert_close(out[:, 4:12], lse[:, 8:], *expected)
    assert out[:, :4].eq(7).all() and out[:, 12:].eq(7).all() and lse[:, :8].eq(7).all()


@BOTH
def test_a_row_does_not_depend_on_its_neighbours_where_that_is_asked_for(layout: Layout) -> None:
    cache = cache_of(layout, 2, 64)
    q, indices = noise(3, 8, layout.head_dim), picks(3, 96, below=128)
    together, _ = run(q, [Scope(cache=cache, indices=indices)])
    alone, _ = run(q[1:2], [Scope(cache=cache, indices=indices[1:2])])
    assert torch.equal(together[1:2], alone)


@WHOLE_OR_SPLIT
@BOTH
def test_a_key_that_is_not_a_number_is_seen_in_the_rows_that_use_it(
    layout: Layout, whole: bool
) -> None:
    cache = cache_of(layout, 1, 64)
    layouts.pack(cache, torch.tensor([9]), torch.full((1, layout.head_dim), math.nan))
    q = noise(2, 8, layout.head_dim)
    out, lse = torch.zeros(2, 8, 512, dtype=torch.bfloat16), torch.zeros(2, 8)
    indices = numbers(3, 9, 3, 8).view(2, 2).repeat(1, 64)
    scopes = [Scope(cache=cache, indices=indices)]
    decode.sparse_decode(q, scopes, scale=0.05, sink=None, out=out, lse=lse, batch_invariant=whole)
    assert out[0].isnan().all() and lse[0].isnan().all()
    assert out[1].isfinite().all() and lse[1].isfinite().all()


class Launches:
    """Stands for a kernel: remembers the grids and runs it."""

    def __init__(self, kernel: Any, grids: list[tuple[int, ...]]) -> None:
        self.kernel, self.grids = kernel, grids

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        self.grids.append(grid)
        return self.kernel[grid]


@BOTH
def test_launches_are_at_most_two_and_the_same_whatever_tensors_hold(
    monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    grids: list[tuple[int, ...]] = []
    for name in ("decode_kernel", "merge_kernel"):
        monkeypatch.setattr(decode, name, Launches(getattr(decode, name), grids))
    cache = cache_of(layout, 1, 64)
    q, indices = noise(1, 8, layout.head_dim), picks(1, 128, below=64)
    for length in (128, 0, 3):
        run(q, [Scope(cache=cache, indices=indices, lengths=numbers(length))], whole=False)
    assert len(grids) == 6 and grids[0:2] == grids[2:4] == grids[4:6]
    run(q, [Scope(cache=cache, indices=indices)], whole=True)
    assert len(grids) == 7


def test_what_does_not_fit_is_refused() -> None:
    cache, indices = cache_of(V4, 1, 64), picks(1, 64, below=64)
    scope = Scope(cache=cache, indices=indices)
    other = Scope(cache=cache_of(V32, 1, 64), indices=indices)
    for q, scopes, expected in (
        (noise(1, 8, 512), [], "one or two"),
        (noise(1, 8, 512), [scope, other], "V4 and of V3.2"),
        (noise(1, 8, 576), [scope], "576 wide; expected 512"),
        (noise(1, 8, 448), [other], "expected 576 or 512"),
    ):
        with pytest.raises(ValueError, match=expected):
            run(q, scopes)
