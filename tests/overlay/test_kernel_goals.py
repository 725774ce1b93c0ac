# SPDX-License-Identifier: Apache-2.0
"""The goals that machine code is held to whatever its budget, and two commits compared."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import kernel_compare, kernel_report

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from benchmarks.compiled import Build, Family, Measured

WIDE = Build(
    label="V4, one scope, whole, 32 heads", kernel=None, pointers={}, constants={}, warps=4,
    stages=3, entries=32, entry_bytes=584, heads=32, width=1024,
)  # fmt: skip
CODE = Measured(
    registers=255, stack=0, shared=99 << 10, mma_ratio=1.0, wide=0.99, narrow=16, copies=10,
    barriers=40, cycles=80.0, fp8=0, tf32=0, local=0, tensor=64.0, stalls=90.0, programs=1,
    floor=90.0, phases={},
)  # fmt: skip


def of(label: str, heads: int) -> Build:
    return replace(WIDE, label=label, heads=heads)


@pytest.mark.parametrize(
    ("build", "version", "most"),
    [
        (WIDE, "3.6", {"stack": 64, "local": 0, "cycles": 80.0}),
        (WIDE, "3.7", {"stack": 64, "local": 7, "cycles": 80.0}),
        (WIDE, "3.8", {"stack": 64, "local": 8, "cycles": 80.0}),
        (of("V3.2, split, 16 heads", 16), "3.8", {"cycles": 67.0 * 1.15}),
        (of("V4, two scopes, split, 16 heads", 16), "3.8", {"cycles": 67.0}),
        (of("prefill, 576 wide, 32 heads", 32), "3.6", {"stack": 0, "local": 0, "cycles": 45.0}),
        (of("prefill, 512 wide, 16 heads", 16), "3.7", {"stack": 0, "local": 0, "cycles": 25.0}),
    ],
)
def test_attention_is_held_to_fixed_goals(build: Build, version: str, most: dict[str, Any]) -> None:
    code = replace(CODE, **{"cycles": 25.0, **most})
    assert kernel_report.goals_missed(120, build, code, version) == []
    for cost, limit in most.items():
        over = replace(code, **{cost: limit + 1})
        assert len(kernel_report.goals_missed(120, build, over, version)) == 1, cost


@pytest.mark.parametrize(("capability", "most"), [(120, 5.0), (121, 7.0)])
def test_the_indexers_logits_are_held_to_fixed_goals(capability: int, most: float) -> None:
    build = replace(WIDE, label="indexer logits, decode, 64 heads", family=Family.LOGITS)
    code = replace(CODE, cycles=most, fp8=1)
    assert kernel_report.goals_missed(capability, build, code, "3.6") == []
    assert kernel_report.goals_missed(capability, build, replace(code, cycles=most + 0.1), "3.6")


def report(path: Path, **costs: float) -> Path:
    kernel: dict[str, Any] = {
        "target": "sm_120", "kernel": "V4", "ours": True,
        **dict.fromkeys(kernel_compare.COSTS, 8), **costs,
    }  # fmt: skip
    path.write_text(json.dumps({"triton": "3.8.0", "kernels": [kernel]}), encoding="utf-8")
    return path


def test_two_commits_are_compared_cost_by_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = report(tmp_path / "before")
    for cost in set(kernel_compare.COSTS) - {"registers"}:
        after = report(tmp_path / "after", **{cost: 9})
        monkeypatch.setattr(sys, "argv", ["kernel_compare", str(before), str(after)])
        assert kernel_compare.main() == kernel_compare.REGRESSION
        printed = capsys.readouterr()
        assert "8 -> 9" in printed.out and f"{cost} 8 -> 9" in printed.err
    monkeypatch.setattr(sys, "argv", ["kernel_compare", str(before), str(before)])
    assert kernel_compare.main() == 0
