# SPDX-License-Identifier: Apache-2.0
"""The cache layouts against a second writing of them: bytes, struct and math, a value at a time."""

import math
import struct

import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4, V32, Layout, ScaleRule

BOTH = pytest.mark.parametrize("layout", [V4, V32], ids=lambda layout: layout.name)


def e4m3_value(code: int) -> float:
    sign, exponent, mantissa = code >> 7, (code >> 3) & 15, code & 7
    if (exponent, mantissa) == (15, 7):
        return math.nan
    size = mantissa / 8 * 2.0**-6 if not exponent else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    return -size if sign else size


def e4m3_code(value: float) -> int:
    """The nearest code, ties to the even one."""
    sign = 0x80 if math.copysign(1, value) < 0 else 0
    codes = range(0x7F)
    return sign | min(codes, key=lambda code: (abs(e4m3_value(code) - abs(value)), code & 1))


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def bfloat16_at(data: bytes, offset: int) -> float:
    return float(struct.unpack("<f", b"\0\0" + data[offset : offset + 2])[0])


def ceil_log2(value: float) -> int:
    exponent = -200
    while 2.0**exponent < value:
        exponent += 1
    return exponent


def read_v4(page: bytes, page_size: int, place: int) -> list[float]:
    row, scales = place * 576, page_size * 576 + place * 8
    nope = [e4m3_value(page[row + i]) * 2.0 ** (page[scales + i // 64] - 127) for i in range(448)]
    return nope + [bfloat16_at(page, row + 448 + 2 * i) for i in range(64)]


def read_v32(page: bytes, page_size: int, place: int) -> list[float]:
    row = place * 656
    scales = struct.unpack_from("<4f", page, row + 512)
    nope = [float32(e4m3_value(page[row + i]) * scales[i // 128]) for i in range(512)]
    return nope + [bfloat16_at(page, row + 528 + 2 * i) for i in range(64)]


def everything(cache: torch.Tensor) -> bytes:
    """All memory that a cache lies in, between its pages too."""
    size = cache.untyped_storage().nbytes()
    return bytes(cache.as_strided((size,), (1,), 0).tolist())


def read(cache: torch.Tensor, slot: int) -> list[float]:
    """One token, by the scalar reader, from the bytes of its page alone."""
    _, page_size, token_bytes = cache.shape
    start = cache.storage_offset() + slot // page_size * cache.stride(0)
    data = everything(cache)[start : start + page_size * token_bytes]
    reader = read_v4 if token_bytes == 584 else read_v32
    return reader(data, page_size, slot % page_size)


def values(layout: Layout, rows: int, seed: int = 0) -> torch.Tensor:
    """Rows whose groups differ in size by powers of ten."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, layout.head_dim, generator=generator)
    sizes = 10.0 ** torch.randint(-5, 5, (rows, layout.groups), generator=generator)
    x[:, : layout.nope_dim] *= sizes.repeat_interleave(layout.group_dim, dim=1)
    return x.bfloat16()


def same(ours: torch.Tensor, theirs: list[float]) -> bool:
    return bool(torch.equal(ours.double(), torch.tensor(theirs, dtype=torch.float64)))


def test_a_page_is_padded_as_upstream_pads_it() -> None:
    assert [V4.page_bytes(64), V4.page_bytes(2), V32.page_bytes(64)] == [37_440, 1_728, 41_984]
    assert V4.page_bytes(1) == 1152
    assert all(V4.page_bytes(size) % 576 == 0 for size in range(1, 200))


@BOTH
@pytest.mark.parametrize("page_size", [1, 2, 64])
@pytest.mark.parametrize("gap", [0, 1152])
def test_packed_bytes_are_where_the_scalar_reader_looks(
    layout: Layout, page_size: int, gap: int
) -> None:
    stride = layout.page_bytes(page_size) + gap
    cache = layouts.empty_cache(layout, 5, page_size, page_stride=stride, fill=255)
    slots = torch.tensor([5 * page_size - 1, 0, 3 * page_size, page_size - 1]).unique()
    kv = values(layout, len(slots))
    layouts.pack(cache, slots, kv)
    unpacked = layouts.unpack(cache, slots)
    for row, slot in enumerate(slots.tolist()):
        assert same(unpacked[row], read(cache, slot))
        assert torch.equal(unpacked[row, layout.nope_dim :], kv[row, layout.nope_dim :].float())


@BOTH
def test_what_is_written_is_the_nearest_code_of_the_scaled_value(layout: Layout) -> None:
    cache = layouts.empty_cache(layout, 1, 2, fill=255)
    kv = values(layout, 1, seed=3)
    layouts.pack(cache, torch.tensor([1]), kv)
    data = everything(cache)
    row = data[layout.row_bytes :]
    for group in range(layout.groups):
        first = group * layout.group_dim
        x = kv[0, first : first + layout.group_dim].tolist()
        amax = max(map(abs, x))
        if layout is V4:
            exponent = ceil_log2(max(amax, 1e-4) / 448)
            assert data[2 * 576 + 8 + group] == exponent + 127
        else:
            exponent = ceil_log2(max(amax / 448, 1e-4))
            assert struct.unpack_from("<f", row, 512 + 4 * group) == (2.0**exponent,)
        expected = [e4m3_code(value / 2.0**exponent) for value in x]
        assert list(row[first : first + layout.group_dim]) == expected


@BOTH
def test_writing_a_slot_changes_no_byte_of_another(layout: Layout) -> None:
    cache = layouts.empty_cache(layout, 3, 4, fill=255)
    kv = values(layout, 12)
    for slot in torch.randperm(12, generator=torch.Generator().manual_seed(1)).tolist():
        layouts.pack(cache, torch.tensor([slot]), kv[slot : slot + 1])
    alone = layouts.empty_cache(layout, 3, 4, fill=255)
    layouts.pack(alone, torch.arange(12), kv)
    assert everything(cache) == everything(alone)


def test_the_eighth_scale_byte_is_zero_and_the_padding_stays() -> None:
    cache = layouts.empty_cache(V4, 1, 2, fill=255)
    layouts.pack(cache, torch.tensor([0]), values(V4, 1))
    data = everything(cache)
    assert data[2 * 576 + 7] == 0
    assert set(data[576 : 2 * 576]) == {255}  # token 1
    assert set(data[2 * 576 + 8 :]) == {255}  # its scales, and the padding


@BOTH
def test_a_slot_never_written_is_not_a_number_in_a_cache_filled_with_255(layout: Layout) -> None:
    cache = layouts.empty_cache(layout, 1, 2, fill=255)
    assert layouts.unpack(cache, torch.tensor([1])).isnan().all()


def test_exact_scales_are_kept_as_they_are() -> None:
    kv = values(V32, 2, seed=5)
    cache = layouts.empty_cache(V32, 1, 2)
    layouts.pack(cache, torch.tensor([1, 0]), kv, rule=ScaleRule.EXACT)
    amax = kv[0, :128].float().abs().max().item()
    scale = struct.unpack_from("<f", everything(cache), 656 + 512)[0]
    assert scale == float32(amax / 448)
    assert math.log2(scale) % 1
    assert same(layouts.unpack(cache, torch.tensor([1]))[0], read(cache, 1))


@BOTH
def test_values_come_back_in_the_dtype_asked_for(layout: Layout) -> None:
    cache = layouts.empty_cache(layout, 1, 2)
    layouts.pack(cache, torch.tensor([0, 1]), values(layout, 2))
    exact = layouts.unpack(cache, torch.tensor([1, 0]), dtype=torch.float64)
    assert exact.dtype == torch.float64
    assert torch.equal(exact.float(), layouts.unpack(cache, torch.tensor([1, 0])))


@BOTH
def test_padding_slots_write_nothing(layout: Layout) -> None:
    cache = layouts.empty_cache(layout, 2, 2, fill=7)
    layouts.pack(cache, torch.tensor([-1, -1]), values(layout, 2))
    assert set(everything(cache)) == {7}


@BOTH
def test_a_cache_may_be_a_view_into_a_larger_pool(layout: Layout) -> None:
    page = layout.page_bytes(2)
    pool = torch.full((4 * page,), 9, dtype=torch.uint8)
    shape, strides = (2, 2, layout.token_bytes), (2 * page, layout.token_bytes, 1)
    cache = pool.as_strided(shape, strides, page)
    kv = values(layout, 4)
    layouts.pack(cache, torch.arange(4), kv)
    assert set(pool[:page].tolist()) == {9}
    assert set(pool[2 * page : 3 * page].tolist()) == {9}
    for slot in range(4):
        assert same(layouts.unpack(cache, torch.tensor([slot]))[0], read(cache, slot))


@BOTH
def test_offsets_beyond_two_gibibytes_do_not_wrap(layout: Layout) -> None:
    slots = torch.tensor([64 * 200_000 + 3, -1], dtype=torch.int32)
    stride = layout.page_bytes(64)
    rows, scales = layouts.token_offsets(layout, slots[:1], 64, stride)
    first = 200_000 * stride
    assert first > 2**32
    if layout is V4:
        assert (rows.item(), scales.item()) == (first + 3 * 576, first + 64 * 576 + 3 * 8)
    else:
        assert (rows.item(), scales.item()) == (first + 3 * 656, first + 3 * 656 + 512)


def test_an_empty_cache_and_no_slots_are_fine() -> None:
    cache = layouts.empty_cache(V4, 0, 64)
    none = torch.empty(0, dtype=torch.int64)
    layouts.pack(cache, none, torch.empty(0, 512))
    assert layouts.unpack(cache, none).shape == (0, 512)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (torch.zeros(2, 64, 583, dtype=torch.uint8), r"swa is \(2, 64, 583\) uint8.*584 or 656"),
        (torch.zeros(2, 584, dtype=torch.uint8), r"swa is \(2, 584\).*pages, page size"),
        (torch.zeros(2, 64, 584), r"float32.*expected.*uint8"),
        (torch.zeros(2, 0, 584, dtype=torch.uint8), "at least one token"),
        (torch.zeros(2, 64, 1168, dtype=torch.uint8)[..., ::2], r"strides \(any, 584, 1\)"),
        (torch.zeros(2, 128, 656, dtype=torch.uint8)[:, ::2], r"strides \(any, 656, 1\)"),
        (torch.zeros(584, dtype=torch.uint8).expand(9, 1, 584), "pages 584 bytes apart or more"),
        (torch.zeros(9000, dtype=torch.uint8).as_strided((3, 1, 584), (600, 584, 1)), "16 bytes"),
        (torch.zeros(9000, dtype=torch.uint8)[8:][:584].view(1, 1, 584), "16 bytes"),
    ],
)
def test_a_cache_that_tokens_cannot_be_found_in_is_refused(
    cache: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        layouts.check_cache(cache, "swa")


@pytest.mark.parametrize("slots", [[4], [0, 99]])
def test_slots_beyond_the_cache_are_refused(slots: list[int]) -> None:
    cache = layouts.empty_cache(V4, 2, 2)
    for call in (
        lambda: layouts.pack(cache, torch.tensor(slots), torch.zeros(len(slots), 512)),
        lambda: layouts.unpack(cache, torch.tensor(slots)),
    ):
        with pytest.raises(ValueError, match=rf"slots has {slots[-1]}; .* slots 0 to 3"):
            call()


def test_reading_a_negative_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="slots has -1"):
        layouts.unpack(layouts.empty_cache(V4, 2, 2), torch.tensor([0, -1]))


def test_wrong_arguments_are_named() -> None:
    cache = layouts.empty_cache(V4, 2, 2)
    with pytest.raises(ValueError, match=r"kv is \(1, 576\).*expected \(1, 512\) for V4"):
        layouts.pack(cache, torch.tensor([0]), torch.zeros(1, 576))
    with pytest.raises(ValueError, match=r"slots is \(1, 1\).*int32 or int64"):
        layouts.unpack(cache, torch.tensor([[0]]))
    with pytest.raises(ValueError, match="powers of two only"):
        layouts.pack(cache, torch.tensor([0]), torch.zeros(1, 512), rule=ScaleRule.EXACT)
