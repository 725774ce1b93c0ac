# SPDX-License-Identifier: Apache-2.0
"""The self-test finds what is wrong and says what it can't run."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.sm12x.layouts import V4
from vllm.sm12x.selftest import cases
from vllm.sm12x.selftest import run as selftest
from vllm.sm12x.selftest.cases import Case, Inputs, Kind

CPU = torch.device("cpu")
SMALL = Case(
    model=cases.Model(name="V4", layout=V4, widths=(8,), page_sizes=(64,)),
    kind=Kind.DECODE,
    heads=2,
    rows=3,
)


def run_module(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    package = Path(selftest.__file__).parents[3]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # A shell without a GPU, on whatever machine this is.
    env |= {"PYTHONPATH": str(package), "CUDA_VISIBLE_DEVICES": ""} | environment
    command = [sys.executable, "-m", "vllm.sm12x.selftest", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def with_output(change: Any) -> Inputs:
    """The inputs of SMALL; what `run` returns is the reference's, changed."""
    inputs = cases.build(SMALL, CPU)
    out, lse = inputs.reference([0, 1, 2])
    change(out, lse)
    return dataclasses.replace(inputs, run=lambda: (out, lse))


def nothing(out: torch.Tensor, lse: torch.Tensor) -> None:
    pass


def scaled(out: torch.Tensor, lse: torch.Tensor) -> None:
    out[1, 1] *= 1.01


def shifted_lse(out: torch.Tensor, lse: torch.Tensor) -> None:
    lse[0, 1] += 2e-5


def nan(out: torch.Tensor, lse: torch.Tensor) -> None:
    out[0, 0, 5] = math.nan


def nan_lse(out: torch.Tensor, lse: torch.Tensor) -> None:
    lse[0, 0] = math.nan


def a_row_without_keys_that_is_not_zero(out: torch.Tensor, lse: torch.Tensor) -> None:
    out[2, 0, 0] = 1e-9


def a_finite_lse_without_keys(out: torch.Tensor, lse: torch.Tensor) -> None:
    lse[2, 1] = 0.0


@pytest.mark.parametrize(
    ("change", "right"),
    [
        (nothing, True),
        (scaled, False),
        (shifted_lse, False),
        (nan, False),
        (nan_lse, False),
        (a_row_without_keys_that_is_not_zero, False),
        (a_finite_lse_without_keys, False),
    ],
)
def test_whatever_differs_from_the_reference_is_wrong(
    change: Any, right: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = with_output(change)
    monkeypatch.setattr(cases, "build", lambda case, device: inputs)
    monkeypatch.setattr(cases, "small", lambda: (SMALL,))
    monkeypatch.setattr(selftest, "GROUPS", (cases,))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(
        sys.modules, "vllm.sm12x.selftest.interpreter", types.SimpleNamespace(mend=lambda: None)
    )
    code = selftest.main(["--interpret", "--json"])
    assert code == (0 if right else selftest.WRONG)
    document = json.loads(capsys.readouterr().out)
    (result,) = document["results"]
    assert result["ok"] is right and result["case"] == str(SMALL)
    assert result["failure"] is None


def test_an_operator_that_raises_is_wrong_and_says_what_it_was() -> None:
    def build(case: Case, device: torch.device) -> Inputs:
        raise RuntimeError("out of\nresources")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "build", build)
        result = selftest.run_case(SMALL, CPU, None)
    assert not result.ok and result.failure == "RuntimeError: out of\nresources"
    assert "out of resources" in selftest.line(result)


def test_inputs_hold_what_kernels_have_been_wrong_about() -> None:
    case = dataclasses.replace(SMALL, rows=40)
    inputs = cases.build(case, CPU)
    out, lse = inputs.reference(list(range(40)))
    assert not out.isnan().any()  # though what rows end with points to slots of NaN
    empty = lse.isinf().all(dim=1)
    assert empty[-1] and not empty[:-1].any()
    assert 39 in case.checked and 0 in case.checked and len(case.checked) == 16


def test_every_operator_layout_and_head_count_is_tested() -> None:
    todo = cases.every(quick=False)
    assert {case.heads for case in todo} == {8, 16, 32, 64, 128}
    for model in cases.MODELS:
        for heads in cases.HEADS:
            mine = [c for c in todo if c.model is model and c.heads == heads]
            assert {c.kind for c in mine} == set(Kind)
            assert {c.rows for c in mine if c.kind is Kind.DECODE} == {1, 64}
    assert {case.model for case in cases.every(quick=True)} == set(cases.MODELS)


@pytest.mark.parametrize(
    ("name", "clock", "width", "peak"),
    [
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 14001000, 512, 1792.128e9),
        ("NVIDIA GB10", 0, 0, 273e9),
        ("NVIDIA GeForce RTX 5090", 0, 512, 1792e9),
        ("NVIDIA Something", 0, 0, None),
    ],
)
def test_the_peak_comes_from_the_driver_or_else_from_a_table(
    name: str, clock: int, width: int, peak: float | None
) -> None:
    assert selftest.peak_bandwidth(name, clock, width) == peak


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [
        (None, None, "no CUDA device"),
        ((9, 0), None, "capability 9.0"),
        ((12, 0), "7.0", "for 12.x"),
        ((12, 0), None, ""),
        ((12, 1), None, ""),
    ],
)
def test_only_sm12x_runs_the_operators(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int] | None,
    hip: str | None,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.version, "hip", hip)
    found = selftest.obstacle()
    assert expected in found and bool(found) == bool(expected)


def test_a_timed_line_has_time_bandwidth_and_share() -> None:
    result = selftest.Result(
        case="a case", ok=True, error=1e-3, lse_error=1e-7, micros=12.34, bandwidth=100e9,
        share=0.25, flops=3e12,
    )  # fmt: skip
    found = selftest.line(result)
    for part in ("ok", "12.3 µs", "100 GB/s", "25%", "3.0 TF/s", "a case"):
        assert part in found


def test_without_a_gpu_it_lists_what_it_would_have_run_and_exits_0() -> None:
    done = run_module()
    assert done.returncode == 0, done.stderr
    assert "Nothing was run: no CUDA device is available" in done.stdout
    todo = selftest.listing(quick=False, interpret=False)
    assert all(f"  {case}\n" in done.stdout for case in todo)


def test_without_a_gpu_json_is_one_document_and_nothing_else() -> None:
    done = run_module("--json", "--quick")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["not_run"] == "no CUDA device is available"
    assert document["results"] == [] and document["device"] is None
    todo = selftest.listing(quick=True, interpret=False)
    assert document["cases"] == [str(case) for case in todo]


def test_the_interpreter_has_to_be_switched_on_from_outside() -> None:
    done = run_module("--interpret")
    assert done.returncode == 2 and "TRITON_INTERPRET=1" in done.stderr


def test_the_interpreter_runs_the_kernels_and_they_are_right() -> None:
    pytest.importorskip("triton", reason="the interpreter is part of Triton")
    done = run_module("--interpret", "--json", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [r["case"] for r in results] == [
        str(case) for case in selftest.listing(quick=False, interpret=True)
    ]
    assert all(r["ok"] and 0 < r["error"] < 5e-3 and r["micros"] is None for r in results)
