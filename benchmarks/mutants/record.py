# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/mutation.py found: kept while it runs, then put into benchmarks/mutation.json."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mutants.draw import Mutant

FILE = Path(__file__).resolve().parents[1] / "mutation.json"
GOAL = 0.9


class Found:
    """Outcomes by mutant, a line each in a file that is only added to; the last one counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.by_job: dict[str, dict[str, str]] = {}
        self._marks: set[tuple[str, str]] = set()
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self._note(entry)

    def stands(self, job: str, mark: str) -> bool:
        """Whether a mutant needs no trial: it was killed, or survived these very tests."""
        entry = self.by_job.get(job)
        killed = entry is not None and entry["outcome"] != "survived"
        return killed or (job, mark) in self._marks

    def _note(self, entry: dict[str, str]) -> None:
        self.by_job[entry["job"]] = entry
        self._marks.add((entry["job"], entry["mark"]))

    def add(self, mutant: Mutant, answer: Mapping[str, str], mark: str) -> None:
        entry = {"job": mutant.job, "mark": mark}
        entry |= {key: answer[key] for key in ("outcome", "by", "way", "seconds")}
        self._note(entry)
        with self._path.open("a", encoding="utf-8") as file:
            print(json.dumps(entry), file=file)


def write(
    package: Path,
    found: Found,
    drawing: Iterable[tuple[str, Sequence[Mutant], int]],
    *,
    sample: int,
    seed: int,
    file: Path = FILE,
) -> None:
    """Write the file; survivors keep the reasons that it already gives them."""
    reasons = {key_of(m, s): s["reason"] for m, s in survivors(read(file)) if s["reason"]}
    modules = {}
    for module, mutants, places in drawing:
        outcomes = {m.job: found.by_job[m.job]["outcome"] for m in mutants if m.job in found.by_job}
        if mutants and not outcomes:
            continue  # drawn, and then the run was stopped
        counts = Counter(outcomes.values())
        left = []
        for mutant in mutants:
            if outcomes.get(mutant.job) == "survived":
                entry = {"line": mutant.line, "operator": mutant.operator}
                entry |= {"before": mutant.before, "after": mutant.after}
                left.append(entry | {"reason": reasons.get(key_of(module, entry), "")})
        modules[module] = {
            "text": text_of(package / module),
            "places": places,
            "drawn": len(mutants),
            "tried": len(outcomes),
            **{
                name.replace(" ", "_"): counts[name] for name in ("killed", "timed out", "survived")
            },
            "survivors": left,
        }
    versions = {name: importlib.metadata.version(name) for name in ("cosmic-ray", "coverage")}
    head = {"sample": sample, "seed": seed, "versions": versions}
    body = json.dumps(head | {"total": total(modules), "modules": modules}, indent=1)
    file.write_text(body + "\n", encoding="utf-8", newline="\n")
    print(f"wrote {file.name}: {summary(modules)}")


def read(file: Path = FILE) -> dict[str, Any]:
    if not file.exists():
        return {"modules": {}}
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return data


def survivors(data: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    for module, entry in data["modules"].items():
        for survivor in entry["survivors"]:
            yield module, survivor


def key_of(module: str, survivor: Mapping[str, Any]) -> tuple[str, ...]:
    return module, survivor["operator"], survivor["before"], survivor["after"]


def text_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def total(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    names = ("places", "drawn", "tried", "killed", "timed_out", "survived")
    return {name: sum(entry[name] for entry in modules.values()) for name in names}


def summary(modules: Mapping[str, Mapping[str, Any]]) -> str:
    all_ = total(modules)
    seen = all_["killed"] + all_["timed_out"]
    return (
        f"{all_['tried']} of {all_['drawn']} mutants drawn from {all_['places']} places, "
        f"{all_['killed']} killed, "
        f"{all_['timed_out']} timed out, {all_['survived']} survived: "
        f"{seen / max(all_['tried'], 1):.1%} seen"
    )


def check(package: Path, modules: Sequence[str], file: Path = FILE) -> int:
    """Print what is wrong with the file, and what is out of date; 1 if anything is wrong."""
    data = read(file)
    known = data["modules"]
    wrong = [f"{name} was never measured" for name in modules if name not in known]
    wrong += [f"{name} is no module any more" for name in known if name not in modules]
    for module, survivor in survivors(data):
        if not survivor["reason"]:
            wrong.append(f"{module}:{survivor['line']} {survivor['operator']} has no reason")
    wrong += [
        f"{name}: {entry['tried']} of {entry['drawn']} mutants were tried"
        for name, entry in known.items()
        if entry["tried"] < entry["drawn"]
    ]
    counts = total(known)
    if counts["killed"] + counts["timed_out"] < GOAL * counts["tried"]:
        wrong.append(f"less than {GOAL:.0%} are seen")
    for name in modules:
        if name in known and text_of(package / name) != known[name]["text"]:
            print(f"{name} has changed since it was measured")
    print("\n".join([summary(known), *wrong]))
    return 1 if wrong else 0
