# SPDX-License-Identifier: Apache-2.0
"""The products beside attention, on Triton's interpreter, against the float64 reference."""

import math

import interpreted
import pytest
import torch
from vllm.sm12x.reference import einsum as reference

einsum, prenorm, gemm_tiles, tiles = interpreted.kernels(
    "fp8_einsum", "hc_prenorm", "gemm_tiles", "tiles"
)

E4M3 = torch.float8_e4m3fn
# A bfloat16's rounding and little else.
CLOSE = 2.5e-3
GB10 = tiles.Device(family=tiles.Family.SM121, sms=48, l2_bytes=24 << 20)
PRO_6000 = tiles.Device(family=tiles.Family.SM120, sms=188, l2_bytes=128 << 20)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def activations(rows: int, groups: int, depth: int) -> torch.Tensor:
    """As vLLM's quantisation leaves them: stored group by group."""
    return noise(groups, rows, depth).to(E4M3).transpose(0, 1)


def packed_scales(rows: int, groups: int, depth: int) -> torch.Tensor:
    """Four UE8M0 bytes a word, the rows' dimension dense and aligned, unused bytes 0."""
    blocks = depth // 128
    words, aligned = -(-blocks // 4), -(-rows // 4) * 4
    memory = torch.zeros(groups, words, aligned, 4, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(5)
    for block in range(blocks):
        some = torch.randint(118, 130, (groups, rows), generator=generator)
        memory[:, block // 4, :rows, block % 4] = some.to(torch.uint8)
    return memory.view(torch.int32).squeeze(-1)[:, :, :rows].permute(2, 0, 1)


def plain_scales(rows: int, groups: int, depth: int) -> torch.Tensor:
    aligned = -(-rows // 4) * 4
    memory = noise(groups, depth // 128, aligned, seed=5).exp()
    return memory[:, :, :rows].permute(2, 0, 1)


def run(
    rows: int,
    groups: int,
    width: int,
    depth: int,
    *,
    splits: int | None = None,
    packed: bool = True,
) -> None:
    a = activations(rows, groups, depth)
    a_scale = (packed_scales if packed else plain_scales)(rows, groups, depth)
    b = noise(groups, width, depth, seed=1).to(E4M3)
    b_scale = noise(groups, width // 128, depth // 128, seed=2).exp()
    plan = None
    if splits is not None:
        plan = gemm_tiles.EinsumPlan(tile=gemm_tiles.choose_einsum_tile(rows), splits=splits)
    out = torch.full((rows, groups, width), math.nan, dtype=torch.bfloat16)
    einsum.fp8_einsum(a, a_scale, b, b_scale, out, plan=plan)
    expected = reference.fp8_einsum(a, a_scale, b, b_scale)
    assert ((out - expected).norm(dim=2) <= CLOSE * expected.norm(dim=2)).all()


@pytest.mark.parametrize("packed", [True, False], ids=["packed scales", "float32 scales"])
@pytest.mark.parametrize("rows", [1, 3, 16, 17])
def test_einsum_agrees_with_the_reference(rows: int, packed: bool) -> None:
    run(rows, 2, 128, 256, packed=packed)


@pytest.mark.parametrize("splits", [1, 2, 3, 5])
def test_einsum_split_among_programs_some_of_which_have_nothing_to_do(splits: int) -> None:
    run(2, 1, 128, 384, splits=splits)


def test_einsum_with_scales_of_a_depth_that_fills_no_word() -> None:
    run(3, 1, 128, 640)


def test_einsum_reads_ue8m0_scales_of_weights() -> None:
    a, a_scale = activations(3, 2, 256), packed_scales(3, 2, 256)
    b = noise(2, 128, 256, seed=1).to(E4M3)
    scale = torch.tensor([[[120, 126]], [[128, 0]]], dtype=torch.uint8)
    out = torch.empty(3, 2, 128, dtype=torch.bfloat16)
    einsum.fp8_einsum(a, a_scale, b, scale, out)
    wide = torch.exp2(scale.double() - 127)
    expected = reference.fp8_einsum(a, a_scale, b, wide)
    assert ((out - expected).norm() / expected.norm()) <= CLOSE


def test_a_ue8m0_byte_of_zero_is_a_number_that_other_scales_can_lift() -> None:
    """2^-127, not 0: with the other operand's 2^123 the products are ordinary numbers."""
    a, b = activations(2, 1, 128), noise(1, 128, 128, seed=1).to(E4M3)
    plain = torch.einsum("bhr,hdr->bhd", a.double(), b.double()) / 16
    for word, byte in ((0, 250), (250, 0)):
        packed = torch.full((2, 1, 1), word, dtype=torch.int32)
        scale = torch.full((1, 1, 1), byte, dtype=torch.uint8)
        out = torch.empty(2, 1, 128, dtype=torch.bfloat16)
        einsum.fp8_einsum(a, packed, b, scale, out)
        assert (out - plain).norm() <= CLOSE * plain.norm()


@pytest.mark.parametrize(("device", "sms"), [(GB10, 48), (PRO_6000, 188)])
@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_einsum_gives_every_sm_a_program_for_a_row_alone(
    device: object, sms: int, groups: int
) -> None:
    plan = gemm_tiles.plan_einsum(device, rows=1, groups=groups, width=1024, depth=4096)
    programs = groups * (1024 // plan.tile.block_columns) * plan.splits
    assert programs >= sms
    assert plan.splits <= 32


def test_einsum_of_a_prompt_agrees_with_the_reference() -> None:
    run(70, 1, 128, 256)


def test_einsum_does_not_split_a_prompt() -> None:
    plan = gemm_tiles.plan_einsum(PRO_6000, rows=4096, groups=4, width=1024, depth=4096)
    assert plan.splits == 1


def calc_diff(x: torch.Tensor, y: torch.Tensor) -> float:
    """DeepGEMM's measure."""
    x, y = x.double(), y.double()
    return float(1 - 2 * (x * y).sum() / (x * x + y * y).sum())


def products(rows: int, columns: int, depth: int, parts: int) -> None:
    # Matrices of checkpoints have numbers far from each other's size.
    x = noise(rows, depth).bfloat16() * noise(depth, seed=4).exp().bfloat16()
    fn = noise(columns, depth, seed=1) * (2 * noise(columns, depth, seed=2)).exp()
    out = torch.full((parts, rows, columns), math.nan)
    squares = torch.full((parts, rows + 3), math.nan)[:, :rows]
    prenorm.hc_prenorm(x, fn, out, squares)
    expected, expected_squares = reference.hc_prenorm(x, fn)
    assert calc_diff(out.sum(0), expected) < 1e-9
    assert calc_diff(squares.sum(0), expected_squares) < 1e-12


@pytest.mark.parametrize("rows", [1, 16, 17, 33, 70])
@pytest.mark.parametrize("parts", [1, 3])
def test_prenorm_agrees_with_the_reference(rows: int, parts: int) -> None:
    products(rows, 24, 512, parts)


@pytest.mark.parametrize("columns", [4, 16, 24, 33])
def test_prenorm_of_any_number_of_columns(columns: int) -> None:
    products(3, columns, 256, 2)


def test_prenorm_with_more_parts_than_work_and_a_depth_of_odd_blocks() -> None:
    products(2, 24, 320, 9)
    products(40, 24, 192, 2)
