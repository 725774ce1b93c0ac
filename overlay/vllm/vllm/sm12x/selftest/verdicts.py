# SPDX-License-Identifier: Apache-2.0
"""How far an operator may be from its reference, and how far it is."""

from dataclasses import dataclass

import torch

# Attention: the worst row and head may be off by so much, relative to its length; LSEs absolutely.
WORST_ERROR = 5e-3
WORST_LSE = 1e-5
# Logits: float32 sums of 64 heads, relative to the largest logit of a row.
WORST_LOGIT = 2e-6
# The grouped product: a bfloat16's rounding and little else, relative to a row and group's length.
WORST_PRODUCT = 2.5e-3
# DeepGEMM's measure of a difference, which is about half the square of the relative one.
WORST_DIFF = 1e-9
WORST_SQUARES = 1e-12


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far a result is from the reference; `ok`: every error is small enough.

    `lse_error` is attention's alone, `squares_error` that of HyperConnection's GEMM.
    """

    ok: bool
    error: float
    lse_error: float | None = None
    squares_error: float | None = None


def judge_attention(
    out: torch.Tensor, lse: torch.Tensor, expected: torch.Tensor, expected_lse: torch.Tensor
) -> Verdict:
    """Compare outputs (rows, heads, d) and LSEs (rows, heads).

    Rows without keys must be exactly 0 with an LSE of +inf.
    """
    out, lse = out.double(), lse.double()
    size, off = expected.norm(dim=2), (out - expected).norm(dim=2)
    empty, finite = size == 0, expected_lse.isfinite()
    exact = not off[empty].any() and torch.equal(lse[~finite], expected_lse[~finite])
    error = _largest(off[~empty] / size[~empty])
    lse_error = _largest((lse - expected_lse)[finite].abs())
    # A NaN is larger than no limit, so it is asked whether a figure is within one.
    ok = exact and error <= WORST_ERROR and lse_error <= WORST_LSE
    return Verdict(ok=ok, error=error, lse_error=lse_error)


def judge_logits(out: torch.Tensor, expected: torch.Tensor) -> Verdict:
    """Compare logits (rows, keys), which must be -inf exactly where the reference has it."""
    outside = expected.isneginf()
    exact = torch.equal(out.isneginf(), outside)
    largest = expected.masked_fill(outside, 0).abs().amax(1, keepdim=True).clamp(min=1)
    error = _largest(((out.double() - expected).abs() / largest)[~outside])
    return Verdict(ok=exact and error <= WORST_LOGIT, error=error)


def judge_product(out: torch.Tensor, expected: torch.Tensor) -> Verdict:
    """Compare outputs (rows, groups, d) of the grouped product."""
    error = _largest((out.double() - expected).norm(dim=2) / expected.norm(dim=2))
    return Verdict(ok=error <= WORST_PRODUCT, error=error)


def judge_prenorm(
    out: torch.Tensor, squares: torch.Tensor, expected: torch.Tensor, expected_squares: torch.Tensor
) -> Verdict:
    """Compare products (rows, columns) and sums of squares (rows,), each summed over its parts."""
    error, squares_error = _diff(out, expected), _diff(squares, expected_squares)
    ok = error <= WORST_DIFF and squares_error <= WORST_SQUARES
    return Verdict(ok=ok, error=error, squares_error=squares_error)


def _largest(values: torch.Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


def _diff(x: torch.Tensor, y: torch.Tensor) -> float:
    """DeepGEMM's `calc_diff`, as a sum of squares: nothing is lost where both are nearly equal."""
    x, y = x.double(), y.double()
    return float((x - y).square().sum() / (x.square() + y.square()).sum())
