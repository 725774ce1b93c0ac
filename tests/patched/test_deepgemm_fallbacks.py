# SPDX-License-Identifier: Apache-2.0
"""What vLLM asks DeepGEMM for: ours on SM12x where DeepGEMM has no code, else upstream's."""

import importlib
import inspect
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import devices
import pytest
from devices import OTHERS, SM12X, SM120, Device
from packaging.specifiers import SpecifierSet
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

KNOB = "VLLM_TRITON_MLA_SPARSE"
WRAPPERS = Path("vllm", "utils", "deep_gemm.py")
# Releases with the seam, and of those the ones whose DeepGEMM has kernels for SM12x.
PATCHED, SERVED = SpecifierSet("<0.28"), SpecifierSet(">=0.25,<0.27")
PAGE, DIM, HEADS, TOPK = 64, 128, 8, 32


@pytest.fixture(autouse=True)
def release(base: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    if base not in PATCHED:
        pytest.skip("this release's DeepGEMM has kernels for SM12x")
    monkeypatch.delenv(KNOB, raising=False)
    from vllm.sm12x.mla import deep_gemm

    deep_gemm.choose_gemm.cache_clear()


@pytest.fixture
def installed(base: Version) -> Path:
    import vllm

    return Path(vllm.__file__).parents[1]


def load(path: Path, device: Device, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it comes up on a device."""
    with monkeypatch.context() as patch:
        devices.use(device, patch)
        return devices.load(path, monkeypatch)


@pytest.mark.parametrize("device", SM12X, ids=str)
def test_the_functions_are_ours_on_sm12x_where_deepgemm_has_no_kernels(
    installed: Path, base: Version, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.sm12x.ops import deep_gemm

    module = load(installed / WRAPPERS, device, monkeypatch)
    ours = {name for name in deep_gemm.__all__ if getattr(module, name) is getattr(deep_gemm, name)}
    assert ours == (set() if base in SERVED else set(deep_gemm.__all__))
    if ours:
        assert module.has_deep_gemm() and not module.is_deep_gemm_supported()
        assert not module.is_deep_gemm_e8m0_used()


def test_the_knob_leaves_them_alone(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KNOB, "0")
    module = load(installed / WRAPPERS, SM120, monkeypatch)
    assert module.fp8_einsum.__module__ == module.__name__


@pytest.mark.parametrize("device", OTHERS, ids=str)
def test_elsewhere_nothing_of_the_overlay_is_imported(
    installed: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices.forget_overlay(monkeypatch)
    module = load(installed / WRAPPERS, device, monkeypatch)
    assert devices.entered() == []
    functions = [f for f in vars(module).values() if inspect.isfunction(f)]
    assert not any("sm12x" in function.__module__ for function in functions)


@pytest.mark.parametrize("device", [SM120, *OTHERS], ids=str)
def test_ue8m0_scales_of_weights_are_widened_where_cutlass_reads_them(
    base: Version, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from vllm.model_executor.layers.quantization.utils import fp8_utils

    weight = torch.zeros(128, 256, dtype=torch.float8_e4m3fn)
    scale = torch.tensor([[120, 129]], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    monkeypatch.setattr(fp8_utils, "current_platform", devices.use(device, monkeypatch))
    monkeypatch.setattr(
        type(fp8_utils.current_platform), "is_fp8_fnuz", classmethod(lambda cls: False)
    )
    _, found = fp8_utils.process_fp8_weight_block_strategy(weight, scale)
    if device is SM120 and base not in SERVED:
        assert found.dtype == torch.float32
        assert found.tolist() == [[2.0**-7, 4.0]]
    else:
        assert found is scale
    plain = torch.ones(1, 2)
    assert fp8_utils.process_fp8_weight_block_strategy(weight, plain)[1] is plain


@pytest.fixture
def ops(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our functions with kernels that run on the CPU."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "overlay"))
    importlib.import_module("interpreted").kernels("mqa_logits", "paged_mqa_logits")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return importlib.import_module("vllm.sm12x.ops.deep_gemm")


def filled(pages: int) -> Any:
    import torch

    cache = torch.zeros(pages, PAGE * (DIM + 4), dtype=torch.uint8)
    values = torch.randn(pages, PAGE * DIM, generator=torch.Generator().manual_seed(1))
    cache[:, : PAGE * DIM] = values.to(torch.float8_e4m3fn).view(torch.uint8)
    cache[:, PAGE * DIM :] = torch.rand(pages, PAGE).view(torch.uint8)
    return cache.view(pages, PAGE, DIM + 4)


class Torch:
    """torch with other compiled operators: those of the wheel need a GPU."""

    def __init__(self, torch: Any, **compiled: Any) -> None:
        self._torch = torch
        self.ops = SimpleNamespace(_C=SimpleNamespace(**compiled))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


def test_upstreams_indexer_picks_what_the_reference_picks(
    base: Version, ops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decode step of two requests through `sparse_attn_indexer`, but for its compiled top-k."""
    import torch
    from vllm.model_executor.layers import sparse_attn_indexer as module
    from vllm.sm12x.reference import logits as reference
    from vllm.v1.attention.backends.mla import indexer

    if base >= Version("0.24"):
        pytest.skip("later releases' indexers wrap the same call in more of the engine")
    seen: list[Any] = []

    def top_k(logits: Any, _next_n: int, lengths: Any, indices: Any, *_rest: Any) -> None:
        seen.append(logits)
        for row, length in enumerate(lengths.flatten().tolist()):
            best = logits[row, :length].topk(min(TOPK, length)).indices
            indices[row, : len(best)] = best.int()

    cache = filled(4)
    queries = torch.randn(2, HEADS, DIM).to(torch.float8_e4m3fn)
    weights = torch.randn(2, HEADS)
    lengths = torch.tensor([[150], [10]], dtype=torch.int32)
    table = torch.tensor([[2, 0, 3], [1, 2**31 - 1, -1]], dtype=torch.int32)
    metadata = object.__new__(indexer.DeepseekV32IndexerMetadata)
    vars(metadata).update(
        slot_mapping=torch.zeros(2, dtype=torch.int64), num_decodes=2, num_prefills=0,
        num_decode_tokens=2, max_seq_len=150, prefill=None,
        decode=SimpleNamespace(
            decode_lens=torch.ones(2, dtype=torch.int32), requires_padding=False, seq_lens=lengths,
            block_table=table, schedule_metadata=ops.get_paged_mqa_logits_metadata(lengths, 64, 4),
        ),
    )  # fmt: skip
    context = SimpleNamespace(attn_metadata={"k": metadata})
    monkeypatch.setattr(module, "get_forward_context", lambda: context)
    monkeypatch.setattr(module, "torch", Torch(torch, top_k_per_row_decode=top_k))
    if hasattr(module, "ops"):
        monkeypatch.setattr(module, "ops", SimpleNamespace(top_k_per_row_decode=top_k))
    monkeypatch.setattr(module, "fp8_fp4_paged_mqa_logits", ops.fp8_fp4_paged_mqa_logits)
    picked = torch.zeros(2, TOPK, dtype=torch.int32)
    function = inspect.unwrap(module.sparse_attn_indexer)
    function(
        torch.zeros(2, 4), "k", cache, queries, None, None, weights, 128, "ue8m0", TOPK, DIM,
        192, 192, picked, True,
    )  # fmt: skip
    expected = reference.paged_mqa_logits(queries.unsqueeze(1), cache, weights, lengths, table, 192)
    assert seen[0].shape == (2, 192)
    for row, length in enumerate(lengths.flatten().tolist()):
        best = set(expected[row, :length].topk(min(TOPK, length)).indices.tolist())
        assert set(picked[row, : min(TOPK, length)].tolist()) == best
    assert picked[1, 10:].eq(-1).all()
