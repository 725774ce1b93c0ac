# SPDX-License-Identifier: Apache-2.0
"""The mutation run tells tests that see a fault from tests that don't, in a small package.

What draws the mutants, cosmic-ray, isn't installed here; these are named by hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.mutants import record
from benchmarks.mutants.draw import Mutant, Named, inside_function, named, statement
from benchmarks.mutants.faults import FAULTS
from benchmarks.mutants.measured import Measured, merge
from benchmarks.mutants.place import PACKAGE, Place, Worker
from benchmarks.mutants.trial import Trial
from benchmarks.mutants.worker.mutated import SITE

CODE = """\
import dataclasses

LIMIT = 3


@dataclasses.dataclass
class Heap:
    size: int = 0

    def add(self, count):
        if self.size + count > LIMIT:
            raise ValueError("full")
        self.size += count


def doubled(values):
    return [2 * value for value in values]


def waiting(count):
    while count > 0:
        count -= 1
    return count
"""
TESTS = """\
import subprocess
import sys

import pytest
from heaps import heap


def test_values_are_doubled():
    assert heap.doubled([0, 2]) == [0, 4]


def test_a_full_heap_takes_no_more():
    one = heap.Heap()
    one.add(2)
    with pytest.raises(ValueError):
        one.add(4)


def test_waiting_ends():
    assert heap.waiting(2) == 0


def test_another_process_says_the_limit():
    say = "from heaps import heap; print(heap.LIMIT)"
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True)
    assert done.stdout == "3\\n"


def test_that_fails_whatever_happens():
    assert heap.doubled([1]) == [3]
"""
NAMES = [line[4:-3] for line in TESTS.splitlines() if line.startswith("def ")]
FULL = "self.size + count > LIMIT"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("heaps")
    package = root / "heaps"
    for folder in (package, root / "session" / "mutants", root / "path"):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "heap.py").write_text(CODE, encoding="utf-8")
    (root / "test_heap.py").write_text(TESTS, encoding="utf-8")
    (root / "path" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    return Place(
        session=root / "session",
        python=Path(sys.executable),
        variables={"PYTHONPATH": f"{root / 'path'}:{root}", "PYTHONDONTWRITEBYTECODE": "1"},
        package=package,
        name="heaps",
        root=root,
    )


@pytest.fixture(scope="module")
def trial(place: Place) -> Iterator[Trial]:
    hand = Worker(place, ["test_heap.py"])
    assert hand.tests == {f"test_heap.py::{name}" for name in NAMES}
    yield Trial(place, measured(NAMES), hand)
    hand.close()


def measured(names: Sequence[str]) -> Measured:
    return Measured(seconds={f"test_heap.py::{name}": 0.1 for name in names}, lines={})


def mutant(before: str, after: str) -> Mutant:
    fault = Named(name="by hand", module="heap.py", before=before, after=after)
    (made,) = named("heap.py", CODE, [fault])
    return made


def outcome(trial: Trial, made: Mutant, *names: str) -> tuple[str, str, str]:
    tests = [f"test_heap.py::{name}" for name in names]
    answer = trial.outcome(made, tests, [])
    return answer["outcome"], answer["by"].rpartition("::")[2], answer["way"]


def test_a_test_that_sees_a_fault_kills_it(trial: Trial) -> None:
    made = mutant("2 * value", "2 + value")

    assert outcome(trial, made, NAMES[1], NAMES[0]) == ("killed", NAMES[0], "warm")


def test_a_fault_survives_a_test_that_is_too_weak(trial: Trial) -> None:
    # 2 and 2 more would fit into this heap; the test only tries 4.
    made = mutant(FULL, "self.size + count > LIMIT + 2")

    assert outcome(trial, made, *NAMES[:4]) == ("survived", "", "warm")


def test_a_fault_that_takes_effect_at_import_is_seen_in_another_process_too(trial: Trial) -> None:
    made = mutant("LIMIT = 3", "LIMIT = 4")

    assert outcome(trial, made, *NAMES[:3]) == ("survived", "", "cold")
    assert outcome(trial, made, *NAMES[:4]) == ("killed", NAMES[3], "warm")


def test_a_constant_reaches_the_functions_that_were_imported_with_another(trial: Trial) -> None:
    made = mutant("LIMIT = 3", "LIMIT = 1")

    assert outcome(trial, made, *NAMES[:2]) == ("killed", NAMES[1], "warm")


def test_what_a_class_is_made_with_takes_an_import(trial: Trial) -> None:
    made = mutant("    size: int = 0", "    size: int = 2")

    assert outcome(trial, made, *NAMES[:2]) == ("killed", NAMES[1], "cold")


def test_one_mutant_leaves_nothing_to_the_next(trial: Trial) -> None:
    assert outcome(trial, mutant(FULL, "False"), *NAMES[:4]) == ("killed", NAMES[1], "warm")
    assert outcome(trial, mutant("LIMIT = 3", "LIMIT = 1"), *NAMES[1:2])[0] == "killed"
    assert outcome(trial, mutant("(values)", "(values, /)"), *NAMES[:4])[0] == "survived"


def test_a_fault_that_never_ends_is_stopped(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.mutants.trial.GRACE", 3)
    made = mutant("count > 0", "count > -1 or True")

    assert outcome(trial, made, NAMES[2]) == ("timed out", "", "warm")


def test_a_test_that_fails_anyway_kills_nothing(trial: Trial) -> None:
    weak = mutant(FULL, "self.size + count >= LIMIT + 1")

    assert outcome(trial, weak, NAMES[4], *NAMES[:2])[0] == "survived"
    assert outcome(trial, mutant(FULL, "False"), NAMES[4], *NAMES[:2])[:2] == ("killed", NAMES[1])


def test_a_module_that_no_longer_imports_is_killed(trial: Trial) -> None:
    assert outcome(trial, mutant("LIMIT = 3", "LIMIT = three"), NAMES[0])[0] == "killed"


def test_each_named_fault_has_its_place_in_the_overlay() -> None:
    for fault in FAULTS:
        code = (PACKAGE / fault.module).read_text(encoding="utf-8")
        made = list(named(fault.module, code, [fault]))

        assert len(made) == 1
        assert made[0].before != made[0].after


def test_a_named_fault_without_its_place_is_an_error() -> None:
    gone = Named(name="gone", module="heap.py", before="tripled", after="doubled")
    with pytest.raises(ValueError, match="'tripled'"):
        list(named("heap.py", CODE, [gone]))


@pytest.mark.parametrize(
    ("line", "lines", "inside"),
    [(3, range(3, 4), False), (8, range(8, 9), False), (11, range(11, 12), True),
     (13, range(13, 14), True), (17, range(17, 18), True), (16, range(16, 17), False)],
)  # fmt: skip
def test_a_line_is_run_with_its_statement(line: int, lines: range, inside: bool) -> None:
    assert statement(CODE, line) == lines
    assert inside_function(CODE, line) is inside


def test_tests_of_the_line_come_first_and_the_fastest_of_them(place: Place) -> None:
    told = Measured(
        seconds={"a.py::slow": 2.0, "a.py::fast": 0.1, "a.py::other": 1.0, "b.py::far": 0.1},
        lines={"heap.py": {11: ["a.py::slow", "a.py::fast"]}, "else.py": {1: ["b.py::far"]}},
    )

    first = told.first("heap.py", CODE, 11)

    assert first == ["a.py::fast", "a.py::slow"]
    assert told.second("heap.py", first) == ["a.py::other"]
    assert told.first("heap.py", CODE, 17) == []
    assert told.first("heap.py", CODE, 3) == ["a.py::fast", "a.py::slow"]


def test_what_is_measured_anew_replaces_what_the_file_told_before() -> None:
    path = str(PACKAGE / "envs" / "values.py")
    data = {
        "seconds": {"a.py::one": 1.0, "b.py::two": 2.0},
        "lines": {"envs/values.py": {"7": ["a.py::one", "b.py::two"], "8": ["a.py::one"]}},
    }
    fresh = {"seconds": {"a.py::new": 3.0}, "lines": {path: {"7": ["a.py::new"]}}}

    merge(data, fresh, stale={"a.py"})

    assert data["seconds"] == {"b.py::two": 2.0, "a.py::new": 3.0}
    assert data["lines"] == {"envs/values.py": {"7": ["b.py::two", "a.py::new"]}}


def test_the_record_keeps_reasons_and_asks_for_those_that_lack(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1")
    file, weak = tmp_path / "mutation.json", mutant(FULL, "self.size + count > LIMIT + 2")
    seen = [mutant("2 * value", f"{n} * value") for n in range(3, 12)]
    found = record.Found(tmp_path / "results.jsonl")
    for one, told in [(weak, "survived"), *((one, "killed") for one in seen)]:
        found.add(one, {"outcome": told, "by": "", "way": "warm", "seconds": "1"}, "mark")

    def write() -> None:
        again = record.Found(tmp_path / "results.jsonl")
        drawing = [("heap.py", [weak, *seen], 40)]
        record.write(place.package, again, drawing, sample=30, seed=1, file=file)

    write()
    assert record.check(place.package, ["heap.py"], file) == 1
    assert "heap.py:11 named: by hand has no reason" in capsys.readouterr().out
    data = json.loads(file.read_text(encoding="utf-8"))
    assert data["total"] == {
        "places": 40, "drawn": 10, "tried": 10, "killed": 9, "timed_out": 0, "survived": 1
    }  # fmt: skip
    data["modules"]["heap.py"]["survivors"][0]["reason"] = "nobody has so many"
    file.write_text(json.dumps(data), encoding="utf-8")
    write()
    assert record.check(place.package, ["heap.py"], file) == 0
    assert record.check(place.package, ["heap.py", "new.py"], file) == 1


def test_a_record_below_the_goal_is_wrong(place: Place, tmp_path: Path) -> None:
    counts = {"places": 10, "drawn": 10, "tried": 10, "killed": 7, "timed_out": 1, "survived": 2}
    entry = {**counts, "text": "", "survivors": []}
    file = tmp_path / "mutation.json"
    file.write_text(json.dumps({"modules": {"heap.py": entry}}), encoding="utf-8")
    assert record.check(place.package, ["heap.py"], file) == 1

    entry |= {"killed": 8, "survived": 1}
    file.write_text(json.dumps({"modules": {"heap.py": entry}}), encoding="utf-8")
    assert record.check(place.package, ["heap.py"], file) == 0


def test_a_record_of_a_run_that_was_stopped_is_wrong(place: Place, tmp_path: Path) -> None:
    entry = {"places": 10, "drawn": 10, "tried": 9, "killed": 9, "timed_out": 0, "survived": 0}
    file = tmp_path / "mutation.json"
    modules = {"heap.py": {**entry, "text": "", "survivors": []}}
    file.write_text(json.dumps({"modules": modules}), encoding="utf-8")

    assert record.check(place.package, ["heap.py"], file) == 1


def test_a_survivor_is_tried_again_once_its_tests_change(tmp_path: Path) -> None:
    found = record.Found(tmp_path / "results.jsonl")
    for text, told in (("a", "survived"), ("b", "killed")):
        made = Mutant(module="m.py", operator="o", line=1, text=text, before="", after="")
        found.add(made, {"outcome": told, "by": "", "way": "warm", "seconds": "1"}, "mark")
    again = record.Found(tmp_path / "results.jsonl")
    jobs = list(again.by_job)

    assert [again.stands(job, "mark") for job in jobs] == [True, True]
    assert [again.stands(job, "other") for job in jobs] == [False, True]
    assert not again.stands("unknown", "mark")
