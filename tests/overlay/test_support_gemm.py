# SPDX-License-Identifier: Apache-2.0
"""Who stands in for DeepGEMM, and what is compiled for that before the first request."""

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import interpreted
import pytest
import torch
from vllm.sm12x.support import Route
from vllm.sm12x.support import gemm as support_gemm
from vllm.sm12x.support.gemm import DeepGemm, decide_gemm, find_deep_gemm
from vllm.sm12x.warmup import gemm as warmup_gemm

NONE = DeepGemm(installed=False, kernels=False)
OLD = DeepGemm(installed=True, kernels=False)
GOOD = DeepGemm(installed=True, kernels=True)


def decide(**changed: Any) -> tuple[Route, str, bool]:
    given: dict[str, Any] = {
        "is_cuda": True, "capability": (12, 1), "forced": None, "calls_deep_gemm": True,
        "found": GOOD,
    }  # fmt: skip
    choice = decide_gemm(**(given | changed))
    return choice.path, choice.why, choice.unexpected


@pytest.mark.parametrize(
    "device", [(True, (9, 0)), (True, (10, 0)), (True, None), (False, (12, 0))], ids=str
)
@pytest.mark.parametrize("found", [NONE, OLD, GOOD])
@pytest.mark.parametrize("forced", [None, True, False])
def test_other_devices_are_upstreams_whatever_is_installed(
    device: tuple[bool, Any], found: DeepGemm, forced: bool | None
) -> None:
    is_cuda, capability = device
    path, _, _ = decide(is_cuda=is_cuda, capability=capability, found=found, forced=forced)
    assert path is Route.UPSTREAM


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"found": NONE}, "DeepGEMM isn't installed"),
        ({"found": OLD}, "this DeepGEMM has no kernels for SM12x"),
        ({"calls_deep_gemm": False}, "this vLLM doesn't use DeepGEMM on SM12x"),
    ],
)
def test_it_is_triton_where_deepgemm_cannot_do_it(changed: dict[str, Any], why: str) -> None:
    assert decide(**changed) == (Route.TRITON, why, False)
    assert decide(**changed, forced=True) == (Route.TRITON, why, False)
    path, said, unexpected = decide(**changed, forced=False)
    assert (path, unexpected) == (Route.NONE, True) and why in said


@pytest.mark.parametrize("forced", [None, True, False])
def test_it_is_deepgemm_where_that_has_kernels(forced: bool | None) -> None:
    assert decide(forced=forced)[0] is Route.UPSTREAM


@pytest.mark.parametrize("kernels", [True, False])
def test_the_kernels_are_looked_for_in_the_package_that_vllm_would_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: bool
) -> None:
    package = tmp_path / "deep_gemm"
    source = package / support_gemm.KERNEL_SOURCE
    source.parent.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not to be imported')")
    if kernels:
        source.touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_deep_gemm() == (GOOD if kernels else OLD)


def config(*, v4: bool, drafts: int = 0) -> SimpleNamespace:
    hf = SimpleNamespace(
        index_n_heads=8, index_head_dim=32, num_attention_heads=4, head_dim=64, o_groups=2,
        o_lora_rank=128, hc_mult=4, hidden_size=64,
        **({"compress_ratios": [0, 4, 128]} if v4 else {}),
    )  # fmt: skip
    return SimpleNamespace(
        model_config=SimpleNamespace(hf_text_config=hf),
        parallel_config=SimpleNamespace(tensor_parallel_size=2),
        cache_config=SimpleNamespace(block_size=256),
        speculative_config=SimpleNamespace(num_speculative_tokens=drafts) if drafts else None,
    )


def test_shapes_are_those_of_one_rank() -> None:
    shape = warmup_gemm.from_config(config(v4=True, drafts=2))
    assert shape == warmup_gemm.GemmShape(
        indexer=warmup_gemm.Indexer(heads=8, dim=32, page_size=64, next_n=3),
        projection=warmup_gemm.Projection(groups=1, width=128, depth=128),
        connection=warmup_gemm.Connection(columns=24, depth=256),
    )
    plain = warmup_gemm.from_config(config(v4=False))
    assert plain is not None
    assert plain.projection is None and plain.connection is None
    assert plain.indexer == warmup_gemm.Indexer(heads=8, dim=32, page_size=64, next_n=1)
    assert warmup_gemm.from_config(SimpleNamespace(model_config=None)) is None


def test_warming_up_compiles_every_form_that_calls_have_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = interpreted.kernels("mqa_logits", "paged_mqa_logits", "fp8_einsum", "hc_prenorm")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    forms = [record(module, monkeypatch) for module in modules]
    shape = warmup_gemm.from_config(config(v4=True, drafts=3))
    assert shape is not None
    warmup_gemm.warm_up(shape, torch.device("cpu"))
    tiles = {form["BLOCK_M"] for form in forms[2] if "BLOCK_M" in form}
    assert {form["TOKENS"] for form in forms[1]} == {1, 2}
    assert tiles == {16, 64, 128}
    assert {form["SPLIT"] for form in forms[2] if "SPLIT" in form} == {True, False}
    assert {form["BLOCK_M"] for form in forms[3]} == {16, 32, 64}
    assert len(forms[0]) == 1


def record(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Note with which constants a module's kernels are launched instead of running them."""
    seen: list[dict[str, Any]] = []

    class Kernel:
        def __getitem__(self, _grid: Any) -> Any:
            return lambda *_args, **constants: seen.append(constants)

    for name in vars(module).copy():
        if name.endswith("_kernel"):
            monkeypatch.setattr(module, name, Kernel())
    return seen
