# SPDX-License-Identifier: Apache-2.0
"""The indexer's kernels, on Triton's interpreter, against the float64 reference."""

import math
from typing import Any

import interpreted
import pytest
import torch
from vllm.sm12x.reference import logits as reference

prompt, paged, logits_tiles, tiles = interpreted.kernels(
    "mqa_logits", "paged_mqa_logits", "logits_tiles", "tiles"
)

INF = math.inf
# Sums of 64 heads in float32, relative to the largest logit of a row.
CLOSE = 2e-6
E4M3 = torch.float8_e4m3fn
STALE = 2**31 - 1
HEADS = pytest.mark.parametrize("heads", [8, 12, 16, 32, 64])
KERNELS = pytest.mark.parametrize("tiled", [True, False], ids=["tiled", "simple"])


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numbers(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def same(out: torch.Tensor, expected: torch.Tensor) -> None:
    """`out` held NaN: what the reference leaves out must hold it still, the rest be close."""
    outside = expected.eq(-INF)
    assert out[outside].isnan().all()
    largest = expected.masked_fill(outside, 0).abs().amax(1, keepdim=True).clamp(min=1)
    assert ((out - expected).abs() / largest)[~outside].le(CLOSE).all()


def run(q: torch.Tensor, k: torch.Tensor, first: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    rows, heads, _ = q.shape
    scales, weights = noise(len(k), seed=2).exp(), noise(rows, heads, seed=3)
    out = torch.full((rows, len(k) + 5), math.nan)[:, : len(k)]
    prompt.mqa_logits(q, k, scales, weights, first, end, out)
    same(out, reference.mqa_logits(q, k, scales, weights, first, end))
    return out


@HEADS
@pytest.mark.parametrize("dim", [32, 64, 128])
def test_prompts_agree_with_the_reference(heads: int, dim: int) -> None:
    q, k = noise(3, heads, dim).to(E4M3), noise(150, dim, seed=1).to(E4M3)
    run(q, k, numbers(0, 20, 149), numbers(150, 129, 150))


def test_a_row_of_a_prompt_is_written_where_it_sees_keys_and_nowhere_else() -> None:
    q, k = noise(40, 8, 64).to(E4M3), noise(300, 64, seed=1).to(E4M3)
    first = torch.arange(40, dtype=torch.int32) * 5
    end = first + torch.arange(40, dtype=torch.int32)  # the first row sees nothing
    k.view(torch.uint8)[250:] = 255  # nor does one see these, which aren't numbers
    end[-1] = 250
    run(q, k, first, end)


def test_bounds_that_are_wrong_reach_no_key_that_is_not_there() -> None:
    q, k = noise(3, 8, 32).to(E4M3), noise(20, 32, seed=1).to(E4M3)
    run(q, k, numbers(-5, 19, 30), numbers(STALE, 4, STALE))


def test_queries_and_keys_are_read_where_they_lie() -> None:
    q = noise(6, 8, 96).to(E4M3)[::2, :, 32:]
    k = noise(40, 128, seed=1).to(E4M3)[:, 64:]
    run(q, k, numbers(0, 0, 7), numbers(40, 13, 39))


def cache_of(pages: int, size: int, dim: int, *, gap: int = 0) -> torch.Tensor:
    """Pages apart by `gap` bytes; the last page and the gaps hold NaN in every byte."""
    page = size * (dim + 4)
    memory = torch.full((pages * (page + gap),), 255, dtype=torch.uint8)
    cache = memory.as_strided((pages, size, dim + 4), (page + gap, dim + 4, 1))
    for i in range(pages - 1):
        whole = memory[i * (page + gap) :][:page]
        whole[: size * dim] = noise(size * dim, seed=i).to(E4M3).view(torch.uint8)
        whole[size * dim :] = noise(size, seed=i).exp().view(torch.uint8)
    return cache


def decode(
    q: torch.Tensor,
    cache: torch.Tensor,
    lengths: torch.Tensor,
    table: torch.Tensor,
    *,
    columns: int = 200,
    tiled: bool = True,
) -> torch.Tensor:
    requests, next_n, heads, _ = q.shape
    weights = noise(requests * next_n, heads, seed=3)
    out = torch.full((requests * next_n, columns), math.nan)
    paged.paged_mqa_logits(q, cache, weights, lengths, table, out, tiled=tiled)
    same(out, reference.paged_mqa_logits(q, cache, weights, lengths, table, columns))
    return out


@KERNELS
@HEADS
def test_decode_agrees_with_the_reference(heads: int, tiled: bool) -> None:
    q = noise(1, 1, heads, 128).to(E4M3)
    decode(q, cache_of(4, 64, 128), numbers([150]), numbers([2, 0, 1]), tiled=tiled)


@KERNELS
@pytest.mark.parametrize("next_n", [1, 2, 3, 4])
def test_each_query_token_sees_as_far_as_its_own_length_says(next_n: int, tiled: bool) -> None:
    q = noise(2, next_n, 8, 64).to(E4M3)
    own = numbers([130 + i for i in range(next_n)], [70 - 33 * i for i in range(next_n)])
    table = numbers([3, 1, 0], [2, 4, 4])
    decode(q, cache_of(6, 64, 64, gap=192), own, table, tiled=tiled)


@KERNELS
def test_one_length_a_request_is_that_of_its_last_query_token(tiled: bool) -> None:
    q = noise(3, 3, 8, 32).to(E4M3)
    table = numbers([0, 1], [1, 0], [0, 0])
    out = decode(q, cache_of(3, 64, 32), numbers(70, 2, 0), table, tiled=tiled)
    counted = (~out.isnan()).sum(1)
    assert counted.tolist() == [68, 69, 70, 0, 1, 2, 0, 0, 0]


@KERNELS
def test_lengths_of_zero_write_nothing_and_wrong_ones_stop_at_the_last_column(tiled: bool) -> None:
    q = noise(4, 1, 8, 32).to(E4M3)
    table = numbers([0, 1], [STALE, -STALE], [5, STALE], [1, 0])
    lengths = numbers([100], [0], [-3], [100000])
    decode(q, cache_of(3, 64, 32), lengths, table, columns=128, tiled=tiled)


@KERNELS
def test_a_context_that_reaches_past_the_table_has_no_logits_there(tiled: bool) -> None:
    """Finite ones would be taken for tokens; of a page that isn't there nothing is known."""
    q = noise(2, 2, 8, 32).to(E4M3)
    cache, weights, table = cache_of(4, 64, 32), noise(4, 8, seed=3), numbers([1, 2], [0, 1])
    lengths = numbers([300, 301], [130, 50])
    out = torch.full((4, 320), 7.0)
    paged.paged_mqa_logits(q, cache, weights, lengths, table, out, tiled=tiled)
    expected = reference.paged_mqa_logits(q, cache, weights, lengths, table, 320)
    for row, length in enumerate(lengths.flatten().tolist()):
        known = min(length, 128)
        same(out[row : row + 1, :known], expected[row : row + 1, :known])
        assert out[row, known:length].eq(-INF).all() and out[row, length:].eq(7).all()


@KERNELS
def test_stale_entries_of_the_table_are_never_used(tiled: bool) -> None:
    q = noise(2, 1, 8, 64).to(E4M3)
    table = numbers([1, STALE, 3], [-7, 2**30, -STALE])
    decode(q, cache_of(4, 64, 64), numbers([64], [0]), table, tiled=tiled)


@KERNELS
@pytest.mark.parametrize("size", [16, 32, 48, 128])
def test_pages_of_other_sizes(size: int, tiled: bool) -> None:
    q = noise(1, 1, 8, 32).to(E4M3)
    table = torch.randperm(9, generator=torch.Generator().manual_seed(0)).int().unsqueeze(0)
    decode(q, cache_of(10, size, 32), numbers([9 * size - 5]), table, columns=9 * size, tiled=tiled)


@KERNELS
def test_a_page_behind_two_gib_is_found(tiled: bool) -> None:
    size, dim = 64, 32
    stride = 2**31 // 4 + 2304
    memory = torch.empty(4 * stride + size * (dim + 4), dtype=torch.uint8)
    cache = memory.as_strided((5, size, dim + 4), (stride, dim + 4, 1))
    near = cache_of(2, size, dim)
    memory[4 * stride :] = near[0].flatten()
    q = noise(1, 1, 8, dim).to(E4M3)
    far = decode(q, cache, numbers([50]), numbers([4]), columns=64, tiled=tiled)
    close = decode(q, near, numbers([50]), numbers([0]), columns=64)
    assert torch.equal(far[:, :50], close[:, :50])


@KERNELS
def test_lengths_and_tables_of_larger_buffers_are_read_in_place(tiled: bool) -> None:
    q = noise(2, 2, 8, 32).to(E4M3)
    lengths = torch.full((4, 3), STALE, dtype=torch.int32)[:2, :2]
    lengths[:] = numbers([40, 41], [9, 0])
    table = torch.full((2, 8), STALE, dtype=torch.int32)[:, :2]
    table[:] = numbers([0, 1], [1, 0])
    decode(q, cache_of(3, 64, 32), lengths, table, tiled=tiled)


@KERNELS
def test_columns_end_anywhere_and_a_table_may_be_wider(tiled: bool) -> None:
    q = noise(1, 2, 8, 32).to(E4M3)
    table = numbers([1, 0, 2, 2])
    decode(q, cache_of(4, 64, 32), numbers([77, 500]), table, columns=77, tiled=tiled)


def test_each_sm_gets_programs_from_shapes_alone() -> None:
    for family, sms in ((tiles.Family.SM121, 48), (tiles.Family.SM120, 188)):
        device = tiles.Device(family=family, sms=sms, l2_bytes=24 << 20)
        assert logits_tiles.splits_of(device, 1, 10_000) >= sms
        assert logits_tiles.splits_of(device, 1, 3) == 3
        assert logits_tiles.splits_of(device, 10_000, 500) == 1
