# SPDX-License-Identifier: Apache-2.0
"""The numbers in a packed cache: scales of any magnitude, their codes, and what isn't finite."""

import math
import struct

import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4, V32, Layout, ScaleRule

BOTH = pytest.mark.parametrize("layout", [V4, V32], ids=lambda layout: layout.name)


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def ceil_log2(value: float) -> int:
    exponent = -200
    while 2.0**exponent < value:
        exponent += 1
    return exponent


@pytest.mark.parametrize("amax", [0.0, 1e-30, 1e-4, 1.0, 447.0, 448.0, 449.0, 1e5, 3e38])
def test_relative_error_is_that_of_e4m3_for_any_magnitude(amax: float) -> None:
    for layout in (V4, V32):
        x = torch.linspace(-1, 1, layout.head_dim).mul(amax)[None].bfloat16()
        cache = layouts.empty_cache(layout, 1, 1)
        layouts.pack(cache, torch.tensor([0]), x)
        nope = slice(0, layout.nope_dim)
        read_back = layouts.unpack(cache, torch.tensor([0]))[:, nope]
        x = x[:, nope].float()
        assert read_back.isfinite().all()
        # Half of e4m3's last bit, or half of its least number where the group's floor rules.
        floor = 2.0**-10 * 2.0 ** ceil_log2(max(amax / 448, 1e-4 / 448 if layout is V4 else 1e-4))
        assert bool(((read_back - x).abs() <= x.abs() / 16 + floor).all())


@pytest.mark.parametrize("exponent", range(-21, 120, 10))
def test_a_group_at_a_power_of_two_times_448_is_exact(exponent: int) -> None:
    amax = 448 * 2.0**exponent
    if not math.isfinite(float32(amax)):
        pytest.skip("beyond float32")
    _, scales = layouts.quantize(V4, torch.full((1, 448), amax))
    assert set(scales.flatten().tolist()) == {2.0**exponent}
    above = torch.full((1, 448), amax).nextafter(torch.tensor(torch.inf))
    codes, scales = layouts.quantize(V4, above * (1 + 2**-20))
    assert set(scales.flatten().tolist()) == {2.0 ** (exponent + 1)}
    assert set(codes.float().flatten().tolist()) == {224.0}


def test_exponents_of_every_byte() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    scales = layouts.exponents_to_scales(codes)
    assert scales.tolist() == [*(2.0 ** (code - 127) for code in range(255)), math.inf]
    assert torch.equal(layouts.scales_to_exponents(scales), codes)


def test_exponents_are_clamped_to_a_byte() -> None:
    scales = torch.tensor([2.0**-140, 2.0**-127, 2.0**127, torch.inf])
    assert layouts.scales_to_exponents(scales).tolist() == [0, 0, 254, 255]


def test_the_least_scale_is_upstreams() -> None:
    for amax in (0.0, 1e-30, 1e-5):
        _, scales = layouts.quantize(V4, torch.full((1, 448), amax))
        assert layouts.scales_to_exponents(scales).tolist() == [[127 - 22] * 7]
        _, scales = layouts.quantize(V32, torch.full((1, 512), amax))
        assert scales.tolist() == [[2.0**-13] * 4]
        _, scales = layouts.quantize(V32, torch.zeros(1, 512), rule=ScaleRule.EXACT)
        assert scales.tolist() == [[2.0**-126] * 4]


def test_no_finite_value_needs_the_outermost_exponents() -> None:
    """A kernel may then build a scale by shifting its byte into place."""
    for size in (0.0, torch.finfo(torch.bfloat16).max):
        _, scales = layouts.quantize(V4, torch.full((1, 448), size))
        assert 0 < int(layouts.scales_to_exponents(scales)[0, 0]) < 254


def test_codes_never_exceed_448() -> None:
    x = torch.full((1, 512), 1.0)
    x[0, ::2] = -1.0
    tiny_scales, _ = layouts.quantize(V32, x * 3e38)
    assert tiny_scales.float().abs().max() <= 448
    rounded_up, scales = layouts.quantize(V32, x * 447.9, rule=ScaleRule.EXACT)
    assert set(rounded_up.float().flatten().tolist()) == {448.0, -448.0}
    assert scales.tolist() == [[float32(float32(447.9) / 448)] * 4]


@BOTH
def test_a_nan_stays_one_and_spoils_no_neighbour(layout: Layout) -> None:
    kv = torch.linspace(-3000, 3000, layout.head_dim)[None]
    kv[0, 5] = 0
    clean = layouts.empty_cache(layout, 1, 1)
    layouts.pack(clean, torch.tensor([0]), kv)
    kv[0, 5] = torch.nan
    cache = layouts.empty_cache(layout, 1, 1)
    layouts.pack(cache, torch.tensor([0]), kv)
    ours, theirs = (layouts.unpack(c, torch.tensor([0]))[0] for c in (cache, clean))
    assert ours[5].isnan()
    others = torch.arange(layout.head_dim) != 5
    assert torch.equal(ours[others], theirs[others])


@BOTH
def test_an_infinity_makes_its_group_nan_and_no_other(layout: Layout) -> None:
    kv = torch.linspace(-3000, 3000, layout.head_dim)[None]
    kv[0, 5] = -torch.inf
    kv[0, -1] = torch.inf
    cache = layouts.empty_cache(layout, 1, 1)
    layouts.pack(cache, torch.tensor([0]), kv)
    read_back = layouts.unpack(cache, torch.tensor([0]))[0]
    assert read_back[: layout.group_dim].isnan().all()
    assert read_back[layout.group_dim : -1].isfinite().all()
    assert read_back[-1] == torch.inf
