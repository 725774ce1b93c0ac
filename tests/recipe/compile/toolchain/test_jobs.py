# SPDX-License-Identifier: Apache-2.0
"""How many compilers run at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recipe.compile.toolchain.jobs import (
    UNKNOWN_PEAK_BYTES,
    choose_jobs,
    free_memory,
    killed_for_memory,
    peak_of,
    processors,
    remember_peak,
)

GIB = 1 << 30


@pytest.mark.parametrize(
    ("asked", "cpus", "free", "jobs"),
    [(None, 8, 64, 8), (None, 8, 10, 3), (None, 8, 1, 1), (None, 1, 64, 1), (5, 8, 1, 5)],
)
def test_jobs_follow_from_memory(asked: int | None, cpus: int, free: int, jobs: int) -> None:
    count, why = choose_jobs(asked, cpus, free * GIB, 3 * GIB)
    assert count == jobs
    assert why.startswith(str(jobs))


def test_a_measured_peak_takes_the_place_of_the_guess(tmp_path: Path) -> None:
    assert peak_of(tmp_path, ("_C",)) == UNKNOWN_PEAK_BYTES
    remember_peak(tmp_path, ("_C", "_moe_C"), 2 * GIB)
    remember_peak(tmp_path, ("_C",), GIB)
    assert peak_of(tmp_path, ("_C",)) == 2 * GIB
    assert peak_of(tmp_path, ("_C", "_other")) == UNKNOWN_PEAK_BYTES
    (tmp_path / "peaks.json").write_text("[half", encoding="utf-8")
    assert peak_of(tmp_path, ("_C",)) == UNKNOWN_PEAK_BYTES


def machine(root: Path, limit: str, used: int, cache: int = 0) -> tuple[Path, Path]:
    proc, cgroup = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   20971520 kB\n")
    (proc / "vmstat").write_text("oom_killer 1\noom_kill 7\n")
    (proc / "self" / "cgroup").write_text("0::/build/job\n")
    group = cgroup / "build"
    (group / "job").mkdir(parents=True)
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\n")
    return proc, cgroup


def test_the_limit_of_a_group_above_counts(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, str(8 * GIB), 6 * GIB, cache=GIB)
    assert free_memory(proc, cgroup) == 3 * GIB


def test_without_a_limit_the_machine_has_what_it_has(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "max", 6 * GIB)
    assert free_memory(proc, cgroup) == 20 * GIB
    assert killed_for_memory(proc) == 7


@pytest.mark.parametrize(("limit", "count"), [("150000 100000", 1), ("max 100000", None)])
def test_a_quota_of_processor_time_counts(tmp_path: Path, limit: str, count: int | None) -> None:
    proc, cgroup = machine(tmp_path, "max", 0)
    (cgroup / "build" / "cpu.max").write_text(f"{limit}\n")
    (cgroup / "build" / "job" / "cpu.max").write_text("max 100000\n")
    assert processors(proc, cgroup) == (count or len(os.sched_getaffinity(0)))


def test_less_than_a_processor_is_one(tmp_path: Path) -> None:
    proc, cgroup = machine(tmp_path, "max", 0)
    (cgroup / "build" / "cpu.max").write_text("50000 100000\n")
    assert processors(proc, cgroup) == 1
