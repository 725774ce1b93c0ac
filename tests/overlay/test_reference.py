# SPDX-License-Identifier: Apache-2.0
"""The references against loops over single numbers, and against what must hold of any softmax."""

import math
from collections.abc import Sequence

import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4, V32, Layout
from vllm.sm12x.reference.decode import Scope, sparse_decode
from vllm.sm12x.reference.prefill import sparse_prefill

BOTH = pytest.mark.parametrize("layout", [V4, V32], ids=lambda layout: layout.name)
SCALE = 0.08
INF = math.inf


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 1000 * len(shape) + shape[0])
    return torch.randn(*shape, generator=generator).bfloat16()


def cache_of(
    layout: Layout, pages: int, page_size: int, unused: Sequence[int] = (), seed: int = 0
) -> torch.Tensor:
    """A cache with something in every slot but `unused`, which hold NaN."""
    cache = layouts.empty_cache(layout, pages, page_size, fill=255)
    slots = torch.tensor([s for s in range(pages * page_size) if s not in unused])
    layouts.pack(cache, slots, noise(len(slots), layout.head_dim, seed=seed))
    return cache


def dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def by_hand(
    q: list[float], keys: list[list[float]], sink: float, d_v: int = 512
) -> tuple[list[float], float]:
    """One row and head: exactly the formula, with no care for range."""
    weights = [math.exp(SCALE * dot(q, k)) for k in keys]
    total = math.fsum(weights)
    out = [
        math.fsum(w * k[i] for w, k in zip(weights, keys, strict=True)) / (total + math.exp(sink))
        for i in range(d_v)
    ]
    return out, math.log(total)


@BOTH
def test_two_scopes_are_one_softmax_with_the_sink_in_its_denominator(layout: Layout) -> None:
    near, far = cache_of(layout, 2, 4), cache_of(layout, 3, 2, seed=1)
    q = noise(2, 3, layout.head_dim)
    scopes = [
        Scope(cache=near, indices=torch.tensor([[7, 0, 3], [1, 1, 5]])),
        Scope(cache=far, indices=torch.tensor([[5, 2], [0, 4]]), lengths=torch.tensor([2, 1])),
    ]
    sink = torch.tensor([0.5, -2.0, 3.0])
    out, lse = sparse_decode(q, scopes, scale=SCALE, sink=sink)
    taken = [([7, 0, 3], [5, 2]), ([1, 1, 5], [0])]
    for row, (first, second) in enumerate(taken):
        keys = [
            layouts.unpack(near, torch.tensor(first)),
            layouts.unpack(far, torch.tensor(second)),
        ]
        for head in range(3):
            expected, expected_lse = by_hand(
                q[row, head].tolist(), torch.cat(keys).tolist(), sink[head].item()
            )
            torch.testing.assert_close(out[row, head], torch.tensor(expected, dtype=torch.float64))
            assert lse[row, head].item() == pytest.approx(expected_lse, abs=1e-12)


def test_prefill_follows_the_same_formula_and_gives_the_largest_logit() -> None:
    q, kv = noise(2, 2, 512), noise(6, 512, seed=1)
    indices = torch.tensor([[5, 0, 2], [4, 3, 1]], dtype=torch.int32)
    sink = torch.tensor([1.0, -1.0])
    lengths = torch.tensor([3, 2])
    out, max_logits, lse = sparse_prefill(q, kv, indices, scale=SCALE, sink=sink, lengths=lengths)
    for row, taken in enumerate([[5, 0, 2], [4, 3]]):
        keys = kv[taken].tolist()
        for head in range(2):
            query = q[row, head].tolist()
            expected, expected_lse = by_hand(query, keys, sink[head].item())
            torch.testing.assert_close(out[row, head], torch.tensor(expected, dtype=torch.float64))
            assert lse[row, head].item() == pytest.approx(expected_lse, abs=1e-12)
            largest = max(SCALE * dot(query, k) for k in keys)
            assert max_logits[row, head].item() == pytest.approx(largest, abs=1e-12)


@BOTH
@pytest.mark.parametrize("bad", [-1, -7, 8, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_invalid_index_anywhere_counts_for_nothing(layout: Layout, bad: int, place: int) -> None:
    cache = cache_of(layout, 2, 4)
    q = noise(1, 2, layout.head_dim)
    good = [6, 1]
    row = torch.tensor([[*good[:place], bad, *good[place:]]], dtype=torch.int32)
    ours = sparse_decode(q, [Scope(cache=cache, indices=row)], scale=SCALE)
    theirs = sparse_decode(q, [Scope(cache=cache, indices=torch.tensor([good]))], scale=SCALE)
    assert all(map(torch.equal, ours, theirs))


@BOTH
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, -3])
def test_nothing_right_of_the_length_is_looked_at(layout: Layout, length: int) -> None:
    cache = cache_of(layout, 2, 4, unused=[3, 5])
    q = noise(1, 2, layout.head_dim)
    indices = torch.tensor([[6, 1, -1, 0, 3, 5]])  # 3 and 5 are stale, and hold NaN
    scope = Scope(cache=cache, indices=indices, lengths=torch.tensor([length]))
    cut = Scope(cache=cache, indices=indices[:, : max(length, 0)])
    ours = sparse_decode(q, [scope], scale=SCALE)
    assert ours[0].isfinite().all()
    assert all(map(torch.equal, ours, sparse_decode(q, [cut], scale=SCALE)))


@pytest.mark.parametrize("sink", [None, torch.tensor([0.0, INF])])
def test_rows_without_a_key_are_zero_with_an_infinite_lse(sink: torch.Tensor | None) -> None:
    cache = layouts.empty_cache(V4, 1, 4, fill=255)
    indices = torch.tensor([[-1, -1], [4, 99], [0, 1]])
    scope = Scope(cache=cache, indices=indices, lengths=torch.tensor([2, 2, 0]))
    out, lse = sparse_decode(noise(3, 2, 512), [scope, scope], scale=SCALE, sink=sink)
    assert out.eq(0).all()
    assert lse.eq(INF).all()
    kv = torch.full((4, 512), torch.nan)
    out, max_logits, lse = sparse_prefill(
        noise(3, 2, 512), kv, indices, scale=SCALE, sink=sink, lengths=scope.lengths
    )
    assert out.eq(0).all()
    assert lse.eq(INF).all()
    assert max_logits.eq(-INF).all()


@BOTH
def test_sinks_scale_the_output_and_leave_the_lse(layout: Layout) -> None:
    cache = cache_of(layout, 1, 4)
    q = noise(1, 1, layout.head_dim).expand(1, 5, -1)
    scope = Scope(cache=cache, indices=torch.tensor([[0, 1, 3]]))
    plain, lse = sparse_decode(q, [scope], scale=SCALE)
    sink = torch.tensor([-INF, INF, lse[0, 0].item(), -1e30, 1e30])
    out, lse_with_sink = sparse_decode(q, [scope], scale=SCALE, sink=sink)
    assert torch.equal(lse, lse_with_sink)
    for head, share in enumerate([1.0, 0.0, 0.5, 1.0, 0.0]):
        torch.testing.assert_close(out[0, head], share * plain[0, head], rtol=1e-6, atol=0)


@BOTH
def test_order_does_not_matter_and_duplicates_count_twice(layout: Layout) -> None:
    cache = cache_of(layout, 2, 4)
    q = noise(1, 2, layout.head_dim)

    def run(*indices: int) -> tuple[torch.Tensor, torch.Tensor]:
        return sparse_decode(q, [Scope(cache=cache, indices=torch.tensor([indices]))], scale=SCALE)

    torch.testing.assert_close(run(0, 5, 2), run(2, 0, 5))
    torch.testing.assert_close(run(3, 3)[0], run(3)[0])
    torch.testing.assert_close(run(3, 3)[1], run(3)[1] + math.log(2))
    assert not torch.allclose(run(0, 0, 5)[0], run(0, 5)[0])


def test_the_same_keys_give_the_same_result_however_they_are_split_into_scopes() -> None:
    cache = cache_of(V4, 4, 2)
    q = noise(1, 4, 512)
    whole = sparse_decode(q, [Scope(cache=cache, indices=torch.arange(8)[None])], scale=SCALE)
    parts = [
        Scope(cache=cache, indices=torch.tensor([part])) for part in ([0, 6, 7], [5, 4, 3, 2, 1])
    ]
    torch.testing.assert_close(sparse_decode(q, parts, scale=SCALE), whole)


def test_large_logits_do_not_overflow() -> None:
    q, kv = noise(1, 2, 512) * 1e3, noise(4, 512) * 1e3
    out, max_logits, lse = sparse_prefill(q, kv, torch.arange(4)[None], scale=1.0)
    assert out.isfinite().all()
    torch.testing.assert_close(lse, max_logits, rtol=1e-3, atol=0)


def test_a_query_without_rope_reads_the_leading_part_of_a_key_only() -> None:
    cache = cache_of(V32, 1, 4)
    rope = slice(528, 656)
    cache[:, :, rope] = 255  # NaN
    q = noise(1, 2, 512)
    scope = Scope(cache=cache, indices=torch.tensor([[2, 0]]))
    out, _ = sparse_decode(q, [scope], scale=SCALE)
    cache[:, :, rope] = 0
    padded = torch.nn.functional.pad(q, (0, 64))
    torch.testing.assert_close(out, sparse_decode(padded, [scope], scale=SCALE)[0])


@BOTH
def test_float32_agrees_with_float64(layout: Layout) -> None:
    cache = cache_of(layout, 2, 64)
    q = noise(2, 4, layout.head_dim)
    scope = Scope(cache=cache, indices=torch.arange(128).expand(2, -1))
    single = sparse_decode(q, [scope], scale=SCALE, dtype=torch.float32)
    double = sparse_decode(q, [scope], scale=SCALE)
    assert [x.dtype for x in (*single, *double)] == [torch.float32] * 2 + [torch.float64] * 2
    for ours, exact in zip(single, double, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)


def test_decode_from_the_cache_equals_prefill_over_its_unpacked_keys() -> None:
    cache = cache_of(V32, 2, 8)
    q = noise(3, 2, 576)
    indices = torch.randint(-1, 16, (3, 9), generator=torch.Generator().manual_seed(0))
    kv = layouts.unpack(cache, torch.arange(16))
    paged = sparse_decode(q, [Scope(cache=cache, indices=indices)], scale=SCALE)
    out, _, lse = sparse_prefill(q, kv, indices, scale=SCALE)
    torch.testing.assert_close(paged, (out, lse))


def test_a_scope_whose_cache_has_no_known_layout_is_named() -> None:
    good = Scope(cache=cache_of(V4, 1, 2), indices=torch.tensor([[0]]))
    bad = Scope(cache=torch.zeros(1, 2, 100, dtype=torch.uint8), indices=torch.tensor([[0]]))
    with pytest.raises(ValueError, match=r"scopes\[1\]\.cache is \(1, 2, 100\)"):
        sparse_decode(noise(1, 2, 512), [good, bad], scale=SCALE)
