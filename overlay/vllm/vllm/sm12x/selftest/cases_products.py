# SPDX-License-Identifier: Apache-2.0
"""What `selftest` runs of V4's products beside attention, as made where DeepGEMM can't.

They are the output projection, wo_a, and HyperConnection's GEMM.
"""

import math
from dataclasses import dataclass

import torch

from ..ops import deep_gemm
from ..reference import einsum
from ..warmup.gemm import Connection, Projection
from .trials import Runnable, Trial, bytes_of, fp8_noise, pick_fp8, sample
from .verdicts import Verdict, judge_prenorm, judge_product

# V4-Flash, whole and on one of two devices.
PROJECTIONS = (
    Projection(groups=8, width=1024, depth=4096),
    Projection(groups=4, width=1024, depth=4096),
)
PROJECTION_ROWS = (1, 32, 512)
CONNECTION = Connection(columns=24, depth=4 * 4096)
CONNECTION_ROWS = (1, 32, 4096)
# Exponents of UE8M0 scales: powers of two from 2^-9 to 2^2.
EXPONENTS = (118, 130)
# vLLM's, when it says into how many parts HyperConnection's GEMM goes.
PART_ROWS, PART_DEPTH = 64, 256


@dataclass(frozen=True, kw_only=True)
class ProjectionCase:
    """V4's grouped output projection, wo_a, of so many rows."""

    shape: Projection
    rows: int

    def __str__(self) -> str:
        shape = self.shape
        return (
            f"V4 output projection, {shape.groups} groups of {shape.depth} x {shape.width}, "
            f"rows {self.rows}"
        )

    def trial(self, device: torch.device) -> Trial:
        """Make activations with packed UE8M0 scales, as vLLM's quantisation leaves them."""
        generator = torch.Generator().manual_seed(self.shape.groups * 1000 + self.rows)
        groups, width, depth = self.shape.groups, self.shape.width, self.shape.depth
        a = fp8_noise(groups, self.rows, depth, generator=generator).to(device).transpose(0, 1)
        a_scale = _packed_scales(self.rows, groups, depth, generator, device)
        b = fp8_noise(groups, width, depth, generator=generator).to(device)
        blocks = (groups, width // einsum.GROUP, depth // einsum.GROUP)
        b_scale = torch.randn(blocks, generator=generator).exp().to(device)
        out = torch.full((self.rows, groups, width), math.nan, device=device).bfloat16()

        def run() -> torch.Tensor:
            deep_gemm.fp8_einsum(deep_gemm.EQUATION, (a, a_scale), (b, b_scale), out)
            return out

        def check() -> Verdict:
            rows = sample(self.rows)
            expected = einsum.fp8_einsum(pick_fp8(a, rows), a_scale[rows], b, b_scale)
            return judge_product(run()[rows], expected)

        return Trial(
            run=run,
            check=check,
            moved_bytes=bytes_of(a, a_scale, b, b_scale, out),
            operations=2 * self.rows * groups * width * depth,
        )


@dataclass(frozen=True, kw_only=True)
class ConnectionCase:
    """HyperConnection's prenorm GEMM of so many rows, in parts that add up."""

    shape: Connection
    rows: int

    def __str__(self) -> str:
        return f"V4 HyperConnection, {self.shape.depth} x {self.shape.columns}, rows {self.rows}"

    def trial(self, device: torch.device) -> Trial:
        """Make a matrix of numbers far from each other's size, as those of checkpoints."""
        generator = torch.Generator().manual_seed(self.rows)
        columns, depth = self.shape.columns, self.shape.depth
        parts = choose_parts(_sms(device), rows=self.rows, depth=depth)
        x = torch.randn(self.rows, depth, generator=generator).bfloat16().to(device)
        fn = torch.randn(columns, depth, generator=generator)
        fn = (fn * (2 * torch.randn(columns, depth, generator=generator)).exp()).to(device)
        out = torch.full((parts, self.rows, columns), math.nan, device=device)
        squares = torch.full((parts, self.rows), math.nan, device=device)

        def run() -> None:
            deep_gemm.tf32_hc_prenorm_gemm(x, fn, out, squares, parts)

        def check() -> Verdict:
            run()
            rows = sample(self.rows)
            products, sums = (parts.double().sum(0) for parts in (out[:, rows], squares[:, rows]))
            return judge_prenorm(products, sums, *einsum.hc_prenorm(x[rows], fn))

        return Trial(
            run=run,
            check=check,
            moved_bytes=bytes_of(x, fn, out, squares),
            operations=2 * self.rows * depth * (columns + 1),
        )


def every(*, quick: bool) -> tuple[Runnable, ...]:
    """List all cases, or those of few rows and of one device."""
    projections = PROJECTIONS if not quick else PROJECTIONS[:1]
    most = max(CONNECTION_ROWS) if not quick else 32
    found: list[Runnable] = [
        ProjectionCase(shape=projection, rows=rows)
        for projection in projections
        for rows in PROJECTION_ROWS
        if rows <= most
    ]
    found += [ConnectionCase(shape=CONNECTION, rows=r) for r in CONNECTION_ROWS if r <= most]
    return tuple(found)


def small() -> tuple[Runnable, ...]:
    """List cases that an interpreter on a CPU gets through in seconds."""
    return (
        ProjectionCase(shape=Projection(groups=2, width=128, depth=256), rows=3),
        ConnectionCase(shape=Connection(columns=24, depth=512), rows=3),
    )


def choose_parts(sms: int, *, rows: int, depth: int) -> int:
    """Return into how many parts vLLM has a device of so many SMs make HyperConnection's GEMM."""
    return max(1, min(sms // -(-rows // PART_ROWS), depth // PART_DEPTH))


def _sms(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _packed_scales(
    rows: int, groups: int, depth: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Four UE8M0 bytes a word, the rows' dimension dense and aligned; unused bytes are 0."""
    blocks = depth // einsum.GROUP
    words, aligned = -(-blocks // 4), -(-rows // 4) * 4
    bytes_ = torch.zeros(groups, words * 4, aligned, dtype=torch.uint8)
    bytes_[:, :blocks, :rows] = torch.randint(
        *EXPONENTS, (groups, blocks, rows), generator=generator
    ).to(torch.uint8)
    packed = bytes_.view(groups, words, 4, aligned).transpose(2, 3).contiguous()
    # Moved before the rows are cut off, since a copy of a part would lie differently.
    return packed.view(torch.int32).squeeze(-1).to(device)[:, :, :rows].permute(2, 0, 1)
