# SPDX-License-Identifier: Apache-2.0
"""flash_mla_sparse_fwd: what reaches the kernel, what comes back, and which calls are refused.

The kernel has tests of its own; here the reference stands in for it.
"""

import math
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from vllm.sm12x.ops.flash_mla import flash_mla_sparse_fwd
from vllm.sm12x.reference import prefill


class Kernel:
    """A stand-in for the kernel that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def sparse_prefill(
        self,
        q: torch.Tensor,
        kv: torch.Tensor,
        indices: torch.Tensor,
        *,
        scale: float,
        sink: torch.Tensor | None,
        lengths: torch.Tensor | None,
        out: torch.Tensor,
        max_logits: torch.Tensor,
        lse: torch.Tensor,
    ) -> None:
        self.calls += 1
        result, max_logits[:], lse[:] = prefill.sparse_prefill(
            q, kv, indices, scale=scale, sink=sink, lengths=lengths
        )
        out[:] = result

    def install(self, patch: pytest.MonkeyPatch) -> None:
        package = types.ModuleType("vllm.sm12x.kernels")
        module = types.ModuleType("vllm.sm12x.kernels.prefill")
        module.sparse_prefill = self.sparse_prefill  # type: ignore[attr-defined]
        patch.setitem(sys.modules, package.__name__, package)
        patch.setitem(sys.modules, module.__name__, module)
        patch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    stand_in = Kernel()
    stand_in.install(monkeypatch)
    return stand_in


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.randn(*shape, generator=generator).bfloat16()


def arguments(s_q: int = 3, heads: int = 2) -> dict[str, Any]:
    return {
        "q": noise(s_q, heads, 512),
        "kv": noise(9, 1, 512),
        "indices": torch.arange(4 * s_q, dtype=torch.int32).view(s_q, 1, 4),
        "sm_scale": 0.07,
        "attn_sink": torch.linspace(-1, 1, heads),
        "topk_length": torch.arange(2, 2 + s_q, dtype=torch.int32),
    }


def test_output_largest_logit_and_lse_come_back(kernel: Kernel) -> None:
    given = arguments()
    buffer = torch.empty(5, 2, 512, dtype=torch.bfloat16)
    out, max_logits, lse = flash_mla_sparse_fwd(**given, out=buffer[1:4])
    expected = prefill.sparse_prefill(
        given["q"],
        given["kv"][:, 0],
        given["indices"][:, 0],
        scale=0.07,
        sink=given["attn_sink"],
        lengths=given["topk_length"],
    )
    for ours, theirs in zip((out, max_logits, lse), expected, strict=True):
        torch.testing.assert_close(ours, theirs.to(ours.dtype))
    assert out.data_ptr() == buffer[1].data_ptr()
    del given["attn_sink"], given["topk_length"]
    fresh, _, _ = flash_mla_sparse_fwd(**given)
    assert not torch.equal(fresh, out)


def test_no_rows_call_no_kernel(kernel: Kernel) -> None:
    results = flash_mla_sparse_fwd(**arguments(s_q=0))
    assert [tuple(result.shape) for result in results] == [(0, 2, 512), (0, 2), (0, 2)]
    assert kernel.calls == 0


def test_checks_neither_copy_a_tensor_nor_read_one_back(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What isn't a view or an allocation would be a launch, or a wait for the GPU."""
    module = sys.modules["vllm.sm12x.kernels.prefill"]
    monkeypatch.setattr(module, "sparse_prefill", lambda *args, **kwargs: None)
    given = arguments()
    with torch.autograd.profiler.profile() as profile:
        flash_mla_sparse_fwd(**given)
    names = {event.name.removeprefix("aten::") for event in profile.function_events}
    assert {"squeeze", "view"} <= names
    allocations = {"empty", "empty_strided", "empty_like", "new_empty"}
    assert names <= {"squeeze", "view", "reshape", "as_strided"} | allocations


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def apply(given: dict[str, Any]) -> None:
        given[name] = change(given.get(name))

    return apply


WRONG = [
    (changed("q", lambda q: q[0]), r"q is \(2, 512\).*\(s_q, heads, d\)"),
    (changed("q", lambda q: q[..., :256].contiguous()), "q is .*512 or 576"),
    (changed("kv", lambda kv: kv[:, 0]), r"kv is \(9, 512\).*\(s_kv, 1, 512\)"),
    (changed("kv", lambda _: noise(9, 1, 576)), r"kv is \(9, 1, 576\).*\(s_kv, 1, 512\)"),
    (changed("kv", lambda kv: kv[:0]), "kv is .*one key or more"),
    (changed("indices", lambda i: i[:, 0]), r"indices is \(3, 4\).*\(3, 1, k\) int32"),
    (changed("indices", lambda i: i.long()), "indices is .* int64"),
    (changed("d_v", lambda _: 128), "d_v is 128; expected 512"),
    (changed("attn_sink", lambda s: s[:1]), r"attn_sink is \(1,\).*\(2,\) float32"),
    (changed("topk_length", lambda n: n[:2]), r"topk_length is \(2,\).*\(3,\) int32"),
    (changed("out", lambda _: noise(3, 2, 576)), r"out is \(3, 2, 576\).*\(3, 2, 512\)"),
]


@pytest.mark.parametrize(
    ("change", "message"), WRONG, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_call_names_the_argument_that_does_not_fit(
    kernel: Kernel, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    given = arguments()
    change(given)
    with pytest.raises(ValueError, match=message):
        flash_mla_sparse_fwd(**given)
    assert kernel.calls == 0


def test_without_a_gpu_the_reference_is_named(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(RuntimeError, match=r"on cpu.*reference\.prefill\.sparse_prefill"):
        flash_mla_sparse_fwd(**arguments())
    assert kernel.calls == 0


# Triton's interpreter makes numbers of numpy arrays with one element.
@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
def test_calls_run_on_the_kernel_that_the_wheel_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stands in here: arguments go through to Triton, which its interpreter runs."""
    pytest.importorskip("triton", reason="the interpreter is part of Triton")
    interpreted = pytest.importorskip("interpreted", reason="pytest imports helpers elsewhere")
    interpreted.kernels("prefill")
    with pytest.MonkeyPatch.context() as patch:
        Kernel().install(patch)
        expected = flash_mla_sparse_fwd(**arguments())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    results = flash_mla_sparse_fwd(**arguments())
    assert (results[0].float() - expected[0].float()).norm() / expected[0].float().norm() < 5e-3
    torch.testing.assert_close(results[1:], expected[1:], rtol=1e-5, atol=1e-5)
