# SPDX-License-Identifier: Apache-2.0
"""How numbers become the bytes of a layout: e4m3 codes, and scales of UE8M0 or float32."""

from enum import Enum

import torch

from .formats import Layout

E4M3_MAX = 448.0
# UE8M0 is the exponent field of a float32; its code 0 stands for a subnormal number.
EXPONENT_BIAS = 127
EXPONENT_SHIFT = 23


class ScaleRule(str, Enum):
    """How a group's scale follows from its largest magnitude."""

    POWER_OF_TWO = "power of two"  # rounded up; the only rule that V4's exponents can hold
    EXACT = "exact"  # amax / 448, as vLLM 0.20 wrote V3.2 caches and GLM checkpoints may have


def quantize(
    layout: Layout, nope: torch.Tensor, *, rule: ScaleRule = ScaleRule.POWER_OF_TWO
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return e4m3 codes (n, nope_dim) and float32 scales (n, groups) of `nope` (n, nope_dim).

    V4:   s = 2^ceil(log2(max(amax, 1e-4) / 448)), q = clamp(x / s, -448, 448)
    V3.2: s = 2^ceil(log2(max(amax / 448, 1e-4))), or exactly max(amax / 448, the least normal)
    """
    x = nope.float().unflatten(1, (layout.groups, layout.group_dim))
    # NaN must not hide its neighbours' magnitude; CUDA's fmaxf ignores it as well.
    amax = x.abs().nan_to_num(nan=0.0, posinf=torch.inf).amax(dim=2)
    if rule is ScaleRule.EXACT:
        scales = (amax / E4M3_MAX).clamp(min=torch.finfo(torch.float32).tiny)
    else:
        least = amax.clamp(min=layout.amax_floor) / E4M3_MAX
        scales = _power_of_two_above(least.clamp(min=layout.scale_floor))
    q = (x / scales.unsqueeze(2)).clamp(-E4M3_MAX, E4M3_MAX)
    return q.flatten(1).to(torch.float8_e4m3fn), scales


def scales_to_exponents(scales: torch.Tensor) -> torch.Tensor:
    """Encode float32 powers of two as UE8M0: exponent + 127, clamped to [0, 255]."""
    _, exponent = torch.frexp(scales)
    exponent = torch.where(scales.isinf(), EXPONENT_BIAS + 2, exponent)
    return (exponent - 1 + EXPONENT_BIAS).clamp(0, 255).to(torch.uint8)


def exponents_to_scales(exponents: torch.Tensor) -> torch.Tensor:
    """Decode UE8M0 to float32, 2^(byte - 127); 255 is beyond float32 and gives infinity."""
    bits = exponents.to(torch.int32) << EXPONENT_SHIFT
    return bits.masked_fill(exponents == 0, 1 << (EXPONENT_SHIFT - 1)).view(torch.float32)


def _power_of_two_above(x: torch.Tensor) -> torch.Tensor:
    """2^ceil(log2(x)) for positive x, without the rounding of a logarithm."""
    mantissa, exponent = torch.frexp(x)
    exponent = torch.where(mantissa == 0.5, exponent - 1, exponent)
    return torch.where(x.isinf(), x, torch.ldexp(torch.ones_like(x), exponent))
