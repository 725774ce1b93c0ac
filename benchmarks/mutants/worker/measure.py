# SPDX-License-Identifier: Apache-2.0
"""Which test runs which line of the mutated rooms, and how long each test takes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.mutants.worker.mutated import MEASURE, TEST
from benchmarks.mutants.worker.tests import run_pytest


class Meter:
    """pytest's side of `measure`: whose lines are noted, and how long each test takes."""

    def __init__(self, coverage: Any) -> None:
        self._coverage = coverage
        self.seconds: dict[str, float] = {}
        self._made: dict[str, float] = {}
        self.unfit: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)
        os.environ[TEST] = nodeid

    def pytest_runtest_logreport(self, report: Any) -> None:
        # What a fixture takes falls to whom it is made for. A test counts once it was called.
        if report.when == "setup":
            self._made[report.nodeid] = report.duration
        if report.when == "call":
            self.seconds[report.nodeid] = self._made[report.nodeid] + report.duration
        if not report.passed:
            self.unfit.add(report.nodeid)


def measure(folder: Path, rooms: Sequence[str], options: Sequence[str]) -> None:
    """Write folder/fresh.json: seconds of each test that passes, and the tests of each line."""
    import coverage

    config = folder / "coveragerc"
    data = folder / "coverage"
    config.write_text(
        f"[run]\nparallel = true\ndata_file = {data}\ncontext = ${{{TEST}}}\n"
        "source =\n" + "".join(f"    {room}\n" for room in rooms),
        encoding="utf-8",
    )
    os.environ[MEASURE] = str(config)
    mine = coverage.Coverage(data_file=str(data), data_suffix=True, source=list(rooms))
    mine.start()
    meter = Meter(mine)
    run_pytest(options, meter)
    mine.stop()
    mine.save()
    mine.combine([str(folder)])
    found = mine.get_data()
    lines = {
        path: {
            line: [test for test in tests if test in meter.seconds and test not in meter.unfit]
            for line, tests in found.contexts_by_lineno(path).items()
        }
        for path in found.measured_files()
    }
    seconds = {test: took for test, took in meter.seconds.items() if test not in meter.unfit}
    text = json.dumps({"seconds": seconds, "unfit": sorted(meter.unfit), "lines": lines})
    (folder / "fresh.json").write_text(text, encoding="utf-8")
