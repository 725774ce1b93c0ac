# SPDX-License-Identifier: Apache-2.0
"""flash_mla_with_kvcache: what reaches the kernels, what comes back, and which calls are refused.

The kernels have tests of their own; here the reference stands in for them.
"""

import math
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4, V32, Layout
from vllm.sm12x.layouts.scope import Scope
from vllm.sm12x.ops import flash_mla
from vllm.sm12x.ops.flash_mla import flash_mla_with_kvcache, get_mla_metadata
from vllm.sm12x.reference import decode

BOTH = pytest.mark.parametrize("layout", [V4, V32], ids=lambda layout: layout.name)


class Kernels:
    """Stand-ins for the kernels that note how they are called."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def sparse_decode(
        self,
        q: torch.Tensor,
        scopes: Sequence[Scope],
        *,
        scale: float,
        sink: torch.Tensor | None,
        out: torch.Tensor,
        lse: torch.Tensor,
        batch_invariant: bool,
    ) -> None:
        self.calls.append({"q": q, "scopes": scopes, "batch_invariant": batch_invariant})
        result, lse[:] = decode.sparse_decode(q, scopes, scale=scale, sink=sink)
        out[:] = result

    def install(self, patch: pytest.MonkeyPatch) -> None:
        package = types.ModuleType("vllm.sm12x.kernels")
        module = types.ModuleType("vllm.sm12x.kernels.decode")
        module.sparse_decode = self.sparse_decode  # type: ignore[attr-defined]
        patch.setitem(sys.modules, package.__name__, package)
        patch.setitem(sys.modules, module.__name__, module)
        patch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    stand_in = Kernels()
    stand_in.install(monkeypatch)
    return stand_in


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randn(*shape, generator=generator).bfloat16()


def cache_of(layout: Layout, pages: int, page_size: int, *, gap: int = 0) -> torch.Tensor:
    """A full cache in the form vLLM passes, (pages, page size, 1, bytes)."""
    stride = layout.page_bytes(page_size) + gap
    cache = layouts.empty_cache(layout, pages, page_size, page_stride=stride, fill=255)
    slots = torch.arange(pages * page_size)
    layouts.pack(cache, slots, noise(len(slots), layout.head_dim))
    return cache.unsqueeze(-2)


def decode_arguments(layout: Layout, b: int = 2, s_q: int = 1, heads: int = 3) -> dict[str, Any]:
    """A call of the sparse form as vLLM makes it, with everything that it may hold."""
    generator = torch.Generator().manual_seed(0)

    def picks(limit: int, k: int) -> torch.Tensor:
        return torch.randint(-1, limit, (b, s_q, k), generator=generator, dtype=torch.int32)

    return {
        "q": noise(b, s_q, heads, layout.head_dim),
        "k_cache": cache_of(layout, 3, 4),
        "block_table": None,
        "cache_seqlens": None,
        "head_dim_v": 512,
        "tile_scheduler_metadata": get_mla_metadata()[0],
        "softmax_scale": 0.07,
        "is_fp8_kvcache": True,
        "indices": picks(12, 5),
        "topk_length": torch.arange(3, 3 + b, dtype=torch.int32),
        "attn_sink": torch.linspace(-1, 1, heads),
        "extra_k_cache": cache_of(layout, 2, 2, gap=1152),
        "extra_indices_in_kvcache": picks(4, 3),
        "extra_topk_length": torch.arange(1, 1 + b, dtype=torch.int32),
    }


@BOTH
@pytest.mark.parametrize("s_q", [1, 3])
def test_each_query_token_is_a_row_with_its_own_indices_and_its_batchs_length(
    kernels: Kernels, layout: Layout, s_q: int
) -> None:
    given = decode_arguments(layout, s_q=s_q)
    out, lse = flash_mla_with_kvcache(**given)
    assert (out.shape, out.dtype) == ((2, s_q, 3, 512), torch.bfloat16)
    assert (lse.shape, lse.dtype) == ((2, 3, s_q), torch.float32)
    for b in range(2):
        for s in range(s_q):
            scopes = [
                Scope(
                    cache=given[cache].squeeze(2),
                    indices=given[indices][b, s, : given[length][b]][None],
                )
                for cache, indices, length in (
                    ("k_cache", "indices", "topk_length"),
                    ("extra_k_cache", "extra_indices_in_kvcache", "extra_topk_length"),
                )
            ]
            expected, expected_lse = decode.sparse_decode(
                given["q"][b, s][None], scopes, scale=0.07, sink=given["attn_sink"]
            )
            torch.testing.assert_close(out[b, s], expected[0].bfloat16())
            torch.testing.assert_close(lse[b, :, s], expected_lse[0].float())


def test_the_call_of_v32_has_one_batch_row_and_no_lengths_or_sink(kernels: Kernels) -> None:
    given = decode_arguments(V32, b=1, s_q=4)
    optional = ("topk_length", "attn_sink", "softmax_scale")
    for name in [*optional, *(name for name in given if name.startswith("extra_"))]:
        del given[name]
    given["block_table"] = torch.empty(1, 1, dtype=torch.int32)
    given["cache_seqlens"] = torch.tensor([99], dtype=torch.int32)
    out, lse = flash_mla_with_kvcache(**given)
    (scope,) = kernels.calls[0]["scopes"]
    assert scope.indices.shape == (4, 5)
    assert scope.lengths is None
    expected, expected_lse = decode.sparse_decode(given["q"][0], [scope], scale=576**-0.5)
    torch.testing.assert_close(out[0], expected.bfloat16())
    torch.testing.assert_close(lse[0], expected_lse.float().T)


def test_a_model_without_rope_reads_a_v32_cache(kernels: Kernels) -> None:
    given = decode_arguments(V32)
    given["q"] = given["q"][..., :512].contiguous()
    out, _ = flash_mla_with_kvcache(**given)
    given["q"] = torch.nn.functional.pad(given["q"], (0, 64))
    given["tile_scheduler_metadata"] = None
    torch.testing.assert_close(out, flash_mla_with_kvcache(**given)[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_a_cache_of_any_byte_is_taken_where_it_lies(kernels: Kernels, dtype: torch.dtype) -> None:
    given = decode_arguments(V4)
    extra = given["extra_k_cache"]
    given["extra_k_cache"] = extra.view(dtype)
    flash_mla_with_kvcache(**given)
    taken = kernels.calls[0]["scopes"][1].cache
    assert (taken.data_ptr(), taken.stride()) == (extra.data_ptr(), (1152 + 1152 + 576, 584, 1))


def test_the_output_is_written_in_place_also_into_a_part_of_a_buffer(kernels: Kernels) -> None:
    given = decode_arguments(V4)
    buffer = torch.full((5, 8, 512), 7.0, dtype=torch.bfloat16)
    output = buffer[:2, :3].unsqueeze(1)
    expected, _ = flash_mla_with_kvcache(**given)
    out, _ = flash_mla_with_kvcache(**given, out=output)
    assert out is output
    assert torch.equal(buffer[:2, :3], expected[:, 0])
    assert buffer[2:].eq(7).all()
    assert buffer[:, 3:].eq(7).all()


def test_no_rows_call_no_kernel(kernels: Kernels) -> None:
    given = decode_arguments(V4, b=0)
    out, lse = flash_mla_with_kvcache(**given)
    assert (out.shape, lse.shape) == ((0, 1, 3, 512), (0, 3, 1))
    assert kernels.calls == []


@pytest.mark.parametrize("s_q", [1, 3])
def test_checks_neither_copy_a_tensor_nor_read_one_back(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, s_q: int
) -> None:
    """What isn't a view or an allocation would be a launch, or a wait for the GPU."""
    module = sys.modules["vllm.sm12x.kernels.decode"]
    monkeypatch.setattr(module, "sparse_decode", lambda *args, **kwargs: None)
    given = decode_arguments(V4, s_q=s_q)
    with torch.autograd.profiler.profile() as profile:
        flash_mla_with_kvcache(**given)
    names = {event.name.removeprefix("aten::") for event in profile.function_events}
    assert "flatten" in names
    views = {"view", "squeeze", "unsqueeze", "expand", "transpose", "as_strided", "flatten"}
    allocations = {"empty", "empty_strided", "empty_like", "new_empty"}
    # Where a batch row's length serves several query rows it is written out for each.
    lengths = {"clone", "copy_", "_unsafe_view"} if s_q > 1 else set()
    assert names - {"reshape", "detach", "alias"} <= views | allocations | lengths


def test_batch_invariance_reaches_the_kernel(kernels: Kernels) -> None:
    given = decode_arguments(V4)
    flash_mla_with_kvcache(**given)
    given["tile_scheduler_metadata"] = None
    flash_mla_with_kvcache(**given, enable_batch_invariant=True)
    assert [call["batch_invariant"] for call in kernels.calls] == [False, True]


def test_a_scheduling_object_serves_every_layer_of_one_shape(kernels: Kernels) -> None:
    meta, nothing = get_mla_metadata(torch.zeros(2), 64, num_heads_k=1)
    assert nothing is None
    assert (meta.have_initialized, meta.config) == (False, None)
    given = decode_arguments(V4)
    given["tile_scheduler_metadata"] = meta
    for _ in range(3):
        flash_mla_with_kvcache(**given)
    assert meta.have_initialized
    assert meta.config == flash_mla.FlashMLASchedMeta.Config(
        b=2,
        s_q=1,
        h_q=3,
        page_block_size=4,
        h_k=1,
        causal=False,
        is_fp8_kvcache=True,
        topk=5,
        extra_page_block_size=2,
        extra_topk=3,
    )
    given["q"] = given["q"][:, :, :2].contiguous()
    given["attn_sink"] = given["attn_sink"][:2]
    with pytest.raises(ValueError, match=r"h_q 3 -> 2; expected a fresh one"):
        flash_mla_with_kvcache(**given)


def test_a_scheduling_object_of_somebody_else_is_not_needed(kernels: Kernels) -> None:
    given = decode_arguments(V4)
    for other in (None, object()):
        given["tile_scheduler_metadata"] = other
        flash_mla_with_kvcache(**given)


# Triton's interpreter makes numbers of numpy arrays with one element.
@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
def test_calls_run_on_the_kernels_that_the_wheel_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands in here: arguments go through to Triton, which its interpreter runs."""
    pytest.importorskip("triton", reason="the interpreter is part of Triton")
    interpreted = pytest.importorskip("interpreted", reason="pytest imports helpers elsewhere")
    interpreted.kernels("decode")
    given = decode_arguments(V4, s_q=2)
    with pytest.MonkeyPatch.context() as patch:
        Kernels().install(patch)
        expected, expected_lse = flash_mla_with_kvcache(**given)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    out, lse = flash_mla_with_kvcache(**given)
    assert (out.float() - expected.float()).norm() / expected.float().norm() < 5e-3
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)
