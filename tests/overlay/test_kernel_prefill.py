# SPDX-License-Identifier: Apache-2.0
"""The prefill kernel, on Triton's interpreter, against the float64 reference."""

import math

import interpreted
import pytest
import torch
from vllm.sm12x.reference import prefill as reference

(prefill,) = interpreted.kernels("prefill")

INF = math.inf
WORST_RMS = 5e-3
WORST_LSE = 1e-5


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def picks(*shape: int, below: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, below, shape, generator=generator, dtype=torch.int32)


def run(
    q: torch.Tensor,
    kv: torch.Tensor,
    indices: torch.Tensor,
    *,
    sink: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the kernel writes, into memory that held NaN, once it is what the reference says."""
    rows, heads, width = q.shape
    out = torch.full((rows, heads, 512), math.nan, dtype=torch.bfloat16)
    largest, lse = torch.full((2, rows, heads), math.nan)
    scale = width**-0.5
    prefill.sparse_prefill(
        q, kv, indices, scale=scale, sink=sink, lengths=lengths,
        out=out, max_logits=largest, lse=lse,
    )  # fmt: skip
    expected = reference.sparse_prefill(q, kv, indices, scale=scale, sink=sink, lengths=lengths)
    size = expected[0].norm(dim=2)
    error = (out.double() - expected[0]).norm(dim=2)
    assert (error <= WORST_RMS * size).all()
    for found, right in zip((largest, lse), expected[1:], strict=True):
        finite = right.isfinite()
        assert torch.equal(found[~finite].double(), right[~finite])
        assert ((found - right)[finite].abs() <= WORST_LSE).all()
    return out, largest, lse


@pytest.mark.parametrize("width", [512, 576])
@pytest.mark.parametrize("heads", [8, 16, 32, 40, 64, 128])
def test_any_number_of_heads_agrees_with_the_reference(heads: int, width: int) -> None:
    run(noise(1, heads, width), noise(100, width, seed=1), picks(1, 64, below=100))


@pytest.mark.parametrize("width", [512, 576])
def test_entries_that_do_not_count_are_never_used(width: int) -> None:
    kv = noise(90, width, seed=1)
    kv[60:] = math.nan
    indices = torch.full((3, 128), 70, dtype=torch.int32)
    indices[0, :80] = picks(80, below=60)
    indices[0, [0, 33, 64, 79]] = torch.tensor([-1, 90, 2**31 - 1, -(2**31)], dtype=torch.int32)
    indices[1, :128] = -1
    lengths = torch.tensor([80, 128, 0], dtype=torch.int32)
    sink = torch.tensor([0.0, -INF, INF, 4.0] * 2)
    out, largest, lse = run(noise(3, 8, width), kv, indices, sink=sink, lengths=lengths)
    assert not out[1:].any() and not out[:, 2].any() and out[0, 1].any()
    assert largest[1:].eq(-INF).all() and lse[1:].eq(INF).all()


def test_strided_tensors_are_read_in_place() -> None:
    q, kv = noise(2, 24, 520)[:, ::3, 8:], noise(50, 1024, seed=1)[:, 512:]
    run(q, kv, picks(2, 96, below=50)[:, :64].long())


def test_a_key_may_lie_beyond_two_gigabytes() -> None:
    """The storage is reserved, not touched, but for its first and last key."""
    keys = 2**31 // 512 + 2
    kv = torch.empty(keys, 512, dtype=torch.bfloat16)
    used = torch.tensor([0, 1, keys - 2, keys - 1])
    kv[used] = noise(4, 512, seed=1)
    run(noise(1, 8, 512), kv, used[picks(1, 64, below=4).long()].int())


def test_another_width_is_refused() -> None:
    for q, kv in ((448, 448), (512, 576)):
        with pytest.raises(ValueError, match=f"{q} and {kv} wide; expected 512 or 576"):
            run(noise(1, 8, q), noise(4, kv), picks(1, 64, below=4))
