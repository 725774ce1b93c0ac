# SPDX-License-Identifier: Apache-2.0
"""Products beside attention: DeepGEMM's block-scaled einsum and HyperConnection's prenorm GEMM."""

import torch

from ..layouts import exponents_to_scales

GROUP = 128


def unpack_ue8m0(words: torch.Tensor) -> torch.Tensor:
    """Return the float32 powers of two (..., 4 n) of int32 `words` (..., n), the lowest byte first.

    A byte e is 2^(e - 127), also 0, whose float32 is subnormal; 255 gives infinity.
    """
    exponents = torch.stack([words >> shift & 0xFF for shift in (0, 8, 16, 24)], dim=-1).flatten(-2)
    return exponents_to_scales(exponents)


def fp8_einsum(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    *,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Return the sum over r of a[b, h, r] * b[h, d, r] as (rows, groups, d) in `dtype`.

    `a` (rows, groups, r) and `b` (groups, d, r) e4m3. `a_scale` (rows, groups, r / 128) float32, or
    a quarter of it in int32 words, see `unpack_ue8m0`; `b_scale` (groups, d / 128, r / 128).
    """
    if a_scale.dtype == torch.int32:
        a_scale = unpack_ue8m0(a_scale.contiguous())[..., : a.shape[2] // GROUP]
    wide_a = a.to(dtype) * a_scale.to(dtype).repeat_interleave(GROUP, dim=2)
    scale = b_scale.to(dtype).repeat_interleave(GROUP, dim=1).repeat_interleave(GROUP, dim=2)
    return torch.einsum("bhr,hdr->bhd", wide_a, b.to(dtype) * scale)


def hc_prenorm(
    x: torch.Tensor, fn: torch.Tensor, *, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x @ fn.T (rows, n) and the sums of squares of the rows of x (rows,), in `dtype`."""
    wide = x.to(dtype)
    return wide @ fn.to(dtype).T, wide.square().sum(-1)
