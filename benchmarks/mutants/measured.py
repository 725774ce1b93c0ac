# SPDX-License-Identifier: Apache-2.0
"""What the tests told without a mutant: kept in the session, by file and module."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.mutants.draw import inside_function, modules, statement
from benchmarks.mutants.place import BASE, PACKAGE, ROOT, Place

ROOMS = ("support", "mla", "ops", "loading", "envs")
# What no room of these is run by, and what takes minutes.
LEFT_OUT = ("test_kernel_", "test_selftest", "test_soak_")
TESTS = (ROOT / "tests" / "overlay", ROOT / "tests" / "patched")
# A mutant is tried on the tests of its line, and a survivor on the others of their files as well,
# each up to so many seconds: what only a slower test sees counts as a survivor here.
FIRST_ROUND, SECOND_ROUND = 60, 30
# A test of each file runs before the first mutant unless it takes longer, in seconds.
MOMENT = 10
# Test files that are measured together, after which what they told is kept.
BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the clean run told: seconds of each test that passes, the tests of each line."""

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, Sequence[str]]]

    def first(self, module: str, code: str, line: int) -> list[str]:
        """Tests that run the statement of this line, fastest first, up to `FIRST_ROUND` seconds.

        A line that runs at import has all tests that run a line of its module.
        """
        found = self.lines.get(module, {})
        wanted = statement(code, line) if inside_function(code, line) else found
        tests = {test for number in wanted for test in found.get(number, ())}
        return self._within(tests, FIRST_ROUND)

    def files(self, chosen: Iterable[str]) -> list[str]:
        """The test files that run any of these modules."""
        found = (self.lines.get(module, {}) for module in chosen)
        return sorted(
            {file_of(test) for lines in found for tests in lines.values() for test in tests}
        )

    def fastest_of(self, files: Sequence[str]) -> list[str]:
        """A test of each file, of those that take a moment."""
        fastest: dict[str, str] = {}
        for test in sorted(self.seconds, key=lambda test: self.seconds[test]):
            fastest.setdefault(file_of(test), test)
        chosen = (fastest[file] for file in files)
        return [test for test in chosen if self.seconds[test] < MOMENT]

    def second(self, module: str, tried: Iterable[str]) -> list[str]:
        """The other tests of the files that run this module: a fixture may have run for one."""
        files = self.files([module])
        others = {test for test in self.seconds if file_of(test) in files} - set(tried)
        return self._within(others, SECOND_ROUND)

    def _within(self, tests: Iterable[str], most: float) -> list[str]:
        """The fastest tests that take no more than `most` seconds together, or the fastest one."""
        ordered = sorted(tests, key=lambda test: self.seconds[test])
        sums = itertools.accumulate(self.seconds[test] for test in ordered)
        return [
            test
            for i, (test, total) in enumerate(zip(ordered, sums, strict=True))
            if total <= most or i == 0
        ]


def file_of(test: str) -> str:
    return test.partition("::")[0]


def test_files() -> list[Path]:
    found = [path for folder in TESTS for path in sorted(folder.glob("test_*.py"))]
    return [path for path in found if not path.name.startswith(LEFT_OUT)]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def measure(place: Place) -> Measured:
    """Run the tests whose file changed since they were last run here, or whose modules did."""
    kept = place.session / f"measured-{place.variables[BASE]}.json"
    data: dict[str, Any] = {"files": {}, "modules": {}, "seconds": {}, "lines": {}}
    if kept.exists():
        data = json.loads(kept.read_text(encoding="utf-8"))
    now = {path.relative_to(ROOT).as_posix(): digest(path) for path in test_files()}
    texts = {name: digest(PACKAGE / name) for name in modules(PACKAGE, ROOMS)}
    changed = {name for name, text in texts.items() if data["modules"].get(name) != text}
    stale = {name for name, text in now.items() if data["files"].get(name) != text}
    for name in changed:
        for tests in data["lines"].get(name, {}).values():
            stale |= {file_of(test) for test in tests} & set(now)
    dropped = set(data["files"]) - set(now)
    for start in range(0, len(stale), BATCH):
        batch = sorted(stale)[start : start + BATCH]
        print(f"measuring {start + len(batch)} of {len(stale)} test files", flush=True)
        asked = {
            "do": "measure",
            "folder": str(place.session),
            "rooms": [str(PACKAGE / room) for room in ROOMS],
            "options": [*place.options, *batch],
        }
        with (place.session / "measure.log").open("w", encoding="utf-8") as log:
            place.start(asked, stdout=log, stderr=log, stdin=subprocess.DEVNULL).wait()
        fresh = json.loads((place.session / "fresh.json").read_text(encoding="utf-8"))
        merge(data, fresh, stale={*batch, *dropped})
        data["files"] |= {name: now[name] for name in batch}
        kept.write_text(json.dumps(data), encoding="utf-8")
    data["files"], data["modules"] = now, texts
    kept.write_text(json.dumps(data), encoding="utf-8")
    seconds = {test: took for test, took in data["seconds"].items() if file_of(test) in now}
    lines = {
        module: {
            int(line): [test for test in tests if test in seconds] for line, tests in found.items()
        }
        for module, found in data["lines"].items()
    }
    return Measured(seconds=seconds, lines=lines)


def merge(data: dict[str, Any], fresh: dict[str, Any], *, stale: set[str]) -> None:
    """Put what was measured anew in the place of what the same test files told before."""
    before = {test: took for test, took in data["seconds"].items() if file_of(test) not in stale}
    data["seconds"] = before | fresh["seconds"]
    new = {
        Path(path).relative_to(PACKAGE).as_posix(): found for path, found in fresh["lines"].items()
    }
    for module in {*data["lines"], *new}:
        lines: dict[str, list[str]] = {}
        for line, tests in data["lines"].get(module, {}).items():
            lines[line] = [test for test in tests if file_of(test) not in stale]
        for line, tests in new.get(module, {}).items():
            lines[line] = [*lines.get(line, []), *tests]
        data["lines"][module] = {line: tests for line, tests in lines.items() if tests}
