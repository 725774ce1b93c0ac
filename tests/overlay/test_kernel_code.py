# SPDX-License-Identifier: Apache-2.0
"""The kernels' machine code for sm_120 and sm_121, held to its goals and budget; no GPU needed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOL_MISSING = 8
# Where the recipe keeps what is measured, for the next wheel with the same kernels and compiler.
KEPT = os.environ.get("SM12X_KEPT")
# The compilers that the releases' own torch brings.
BUDGETS = json.loads((ROOT / "benchmarks" / "kernel_budget.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """In a process of its own: in this one the kernels are interpreted."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    command = [sys.executable, "-m", "benchmarks.kernel_report", "--no-upstream", "--json"]
    if KEPT:
        command += ["--keep", KEPT]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode == TOOL_MISSING:
        pytest.skip(done.stderr.strip().splitlines()[-1])  # after what Triton warns of
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_kernel_keeps_to_its_goals_and_budget(report: dict[str, Any]) -> None:
    if report["triton"].rpartition(".")[0] not in BUDGETS:
        pytest.skip(f"Triton is {report['triton']}; there are budgets for {', '.join(BUDGETS)}")
    assert report["failed"] == []


def test_the_predicted_times_in_docs_follow_from_the_budget() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    command = [sys.executable, "-m", "benchmarks.roofline", "--check"]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_kernel_uses_tensor_cores_and_asynchronous_copies(report: dict[str, Any]) -> None:
    targets = {kernel["target"] for kernel in report["kernels"]}
    assert targets == {"sm_120", "sm_121"}
    for kernel in report["kernels"]:
        # cycles are counted in a loop with matrix instructions; without one there is no report.
        assert kernel["cycles"] > 0 and kernel["copies"] > 0, kernel
