# SPDX-License-Identifier: Apache-2.0
"""The self-test of what stands in for DeepGEMM: its cases are models', and it finds what is wrong.

Operators are the references here, on the CPU, with one thing changed.
"""

import json
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from vllm.sm12x.ops import deep_gemm
from vllm.sm12x.reference import einsum, logits
from vllm.sm12x.selftest import cases_logits, cases_products
from vllm.sm12x.selftest import run as selftest
from vllm.sm12x.selftest.cases_logits import PagedLogits, PromptLogits
from vllm.sm12x.selftest.cases_products import ConnectionCase, ProjectionCase
from vllm.sm12x.selftest.trials import Runnable, sample
from vllm.sm12x.warmup.gemm import Connection, Projection

CPU = torch.device("cpu")
V32 = cases_logits.Model(name="V3.2", heads=4, dim=32)
V4 = cases_logits.Model(name="V4", heads=4, ratio=4, dim=32)
PROMPT = PromptLogits(model=V4, context=200, rows=40)
PAGED = PagedLogits(model=V32, context=200, requests=3, next_n=2)
PRODUCT = ProjectionCase(shape=Projection(groups=2, width=128, depth=640), rows=5)
PRENORM = ConnectionCase(shape=Connection(columns=24, depth=512), rows=3)
# Whoever calls without this leaves what a row doesn't see undefined.
STALE = 1e30

Change = Callable[..., object]


def nothing(*_outputs: torch.Tensor) -> None:
    pass


def put(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Have the operators compute what the references do, changed."""

    def changed(out: torch.Tensor, clean: bool) -> torch.Tensor:
        out = out.float()
        change(out)
        return out if clean else out.masked_fill(out.isneginf(), STALE)

    def prompt(q: Any, kv: Any, w: Any, first: Any, end: Any, clean_logits: bool) -> torch.Tensor:
        return changed(logits.mqa_logits(q[0], kv[0], kv[1], w, first, end), clean_logits)

    def paged(
        q: Any, cache: Any, w: Any, lengths: Any, table: Any, _schedule: Any, columns: int,
        clean_logits: bool,
    ) -> torch.Tensor:  # fmt: skip
        out = logits.paged_mqa_logits(q[0], cache.squeeze(2), w, lengths, table, columns)
        return changed(out, clean_logits)

    def product(_equation: str, a: Any, b: Any, out: torch.Tensor) -> None:
        out.copy_(einsum.fp8_einsum(*a, *b))
        change(out)

    def prenorm(x: Any, fn: Any, out: Any, squares: Any, parts: int) -> None:
        assert (len(out), len(squares)) == (parts, parts)
        products, sums = einsum.hc_prenorm(x, fn)
        out[:], squares[:] = products / parts, sums / parts
        change(out, squares)

    monkeypatch.setattr(deep_gemm, "fp8_fp4_mqa_logits", prompt)
    monkeypatch.setattr(deep_gemm, "fp8_fp4_paged_mqa_logits", paged)
    monkeypatch.setattr(deep_gemm, "fp8_einsum", product)
    monkeypatch.setattr(deep_gemm, "tf32_hc_prenorm_gemm", prenorm)


def slightly_off(out: torch.Tensor) -> None:
    out[0, 3] += 1e-5 * out[0].masked_fill(out[0].isneginf(), 0).abs().max().clamp(min=1)


def nan(out: torch.Tensor, *_others: torch.Tensor) -> None:
    out.view(-1)[0] = math.nan


def seen_past_its_end(out: torch.Tensor) -> None:
    out[0, -1] = 0.0


def not_seen(out: torch.Tensor) -> None:
    out[0, 0] = -math.inf


def scaled(out: torch.Tensor) -> None:
    out[1, 1] *= 1.01


def tf32(out: torch.Tensor, _squares: torch.Tensor) -> None:
    out *= 1 + 2**-13


def squares(_out: torch.Tensor, squares: torch.Tensor) -> None:
    squares[-1, 1] *= 1 + 2e-5


@pytest.mark.parametrize(
    ("case", "change"),
    [
        *((PROMPT, change) for change in (slightly_off, nan, seen_past_its_end, not_seen)),
        *((PAGED, change) for change in (slightly_off, nan, seen_past_its_end, not_seen)),
        *((PRODUCT, change) for change in (scaled, nan)),
        *((PRENORM, change) for change in (tf32, squares, nan)),
    ],
)
def test_whatever_differs_from_the_reference_is_wrong(
    case: Runnable, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, nothing)
    right = selftest.run_case(case, CPU, None)
    assert right.ok and right.failure is None and right.lse_error is None
    put(monkeypatch, change)
    wrong = selftest.run_case(case, CPU, None)
    assert not wrong.ok and wrong.failure is None
    assert selftest.line(wrong).startswith("WRONG ") and str(case) in selftest.line(wrong)


def test_a_wrong_one_is_in_the_json_and_the_exit_code_is_7(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(monkeypatch, squares)
    monkeypatch.setattr(cases_products, "small", lambda: (PRENORM,))
    monkeypatch.setattr(selftest, "GROUPS", (cases_products,))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(
        sys.modules, "vllm.sm12x.selftest.interpreter", types.SimpleNamespace(mend=lambda: None)
    )
    assert selftest.main(["--interpret", "--json"]) == selftest.WRONG
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["case"] == str(PRENORM) and result["ok"] is False
    assert result["error"] < 1e-9 and result["squares_error"] > 1e-12


@pytest.mark.parametrize("case", [PROMPT, PAGED, PRODUCT, PRENORM], ids=str)
def test_without_a_kernel_that_can_run_a_case_says_what_stopped_it(
    case: Runnable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    result = selftest.run_case(case, CPU, None)
    assert not result.ok and result.failure is not None and "CUDA device" in result.failure


def test_every_shape_of_the_models_is_run() -> None:
    todo = cases_logits.every(quick=False)
    for heads, model in ((64, "V4"), (64, "V3.2"), (32, "GLM-5")):
        mine = [c for c in todo if str(c).startswith(f"{model} ") and f"{heads} heads" in str(c)]
        paged = [c for c in mine if isinstance(c, PagedLogits)]
        assert {(c.context, c.next_n) for c in paged} == {
            (8192, 1), (8192, 2), (131072, 1), (131072, 2),
        }  # fmt: skip
        assert {c.context for c in mine if isinstance(c, PromptLogits)} == {8192, 131072}
    products = cases_products.every(quick=False)
    projections = [c for c in products if isinstance(c, ProjectionCase)]
    assert {(c.shape.groups, c.rows) for c in projections} >= {(8, 1), (8, 32), (4, 1), (4, 32)}
    assert {c.rows for c in products if isinstance(c, ConnectionCase)} == {1, 32, 4096}


@pytest.mark.parametrize("group", [cases_logits, cases_products])
def test_quick_leaves_out_shapes_but_no_operator(group: Any) -> None:
    every, quick = group.every(quick=False), group.every(quick=True)
    assert set(quick) < set(every)
    assert {type(case) for case in quick} == {type(case) for case in every}
    assert {type(case) for case in group.small()} == {type(case) for case in every}


def test_bytes_are_those_that_a_call_has_to_move() -> None:
    v4 = PagedLogits(model=cases_logits.MODELS[0], context=8192, requests=1, next_n=2)
    trial = v4.trial(CPU)
    keys = 8192 // 4
    pairs = 2 * keys - 1
    assert trial.moved_bytes == keys * 132 + 2 * 64 * (128 + 4) + 4 * pairs
    assert trial.operations == 2 * 64 * 128 * pairs
    small = ProjectionCase(shape=Projection(groups=2, width=128, depth=512), rows=3).trial(CPU)
    assert small.moved_bytes == 6 * 512 + 6 * 4 + 2 * 128 * 512 + 2 * 4 * 4 + 2 * 6 * 128


def test_a_prompts_rows_see_what_is_compressed_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, nothing)
    out: Any = PROMPT.trial(CPU).run()
    counted = out.ne(STALE).sum(1)
    assert (counted[0], counted[-1]) == (161 // 4, 200 // 4) and out.shape == (40, 50)


def test_requests_differ_in_length_and_the_last_has_no_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(monkeypatch, nothing)
    out: Any = PAGED.trial(CPU).run()
    assert not out.isnan().any()  # though stale entries point to a page of NaN
    assert out.ne(STALE).sum(1).tolist() == [199, 200, 162, 163, 0, 0]


def test_rows_that_are_compared_are_the_first_the_last_and_some_between() -> None:
    assert sample(1) == [0] and sample(3) == [0, 1, 2]
    assert len(sample(512)) == 16 and sample(512)[0] == 0 and sample(512)[-1] == 511


@pytest.mark.parametrize(
    ("sms", "rows", "parts"), [(48, 1, 48), (188, 32, 64), (188, 4096, 2), (48, 4096, 1)]
)
def test_parts_are_as_many_as_vllm_asks_for(sms: int, rows: int, parts: int) -> None:
    assert cases_products.choose_parts(sms, rows=rows, depth=16384) == parts
