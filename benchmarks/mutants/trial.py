# SPDX-License-Identifier: Apache-2.0
"""Mutants tried with a worker, those first that a person thought of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mutants.draw import Mutant, named, sampled
from benchmarks.mutants.faults import FAULTS
from benchmarks.mutants.measured import Measured, digest, file_of
from benchmarks.mutants.place import BASE, PACKAGE, Place, Worker
from benchmarks.mutants.worker.tests import Request

# A mutant gets this many times what its tests take without one, and a minute for a busy machine.
PATIENCE, GRACE = 5, 60


class Trial:
    """Tries mutants with a worker. A test that fails without a mutant too kills none."""

    def __init__(self, place: Place, measured: Measured, hand: Worker) -> None:
        self._place, self._measured, self._hand = place, measured, hand
        self._fit: dict[str, bool] = {}

    def tests(self, mutant: Mutant, code: str) -> tuple[list[str], list[str]]:
        first = self._measured.first(mutant.module, code, mutant.line)
        second = self._measured.second(mutant.module, first)
        return [t for t in first if t in self._hand.tests], [
            t for t in second if t in self._hand.tests
        ]

    def outcome(self, mutant: Mutant, first: Sequence[str], second: Sequence[str]) -> Any:
        answer: dict[str, Any] = {"outcome": "survived", "by": "", "way": "", "seconds": "0"}
        for tests in (list(first), list(second)):
            while tests:
                answer = self._ask(mutant.job, mutant.module, mutant.text, tests)
                killer = answer["by"]
                if answer["outcome"] != "killed" or self._is_fit(killer, mutant):
                    break
                tests.remove(killer)
            if answer["outcome"] != "survived":
                return answer
        return answer

    def _is_fit(self, killer: str, mutant: Mutant) -> bool:
        """Whether a test passes alone without a mutant, asked once."""
        if killer not in self._hand.tests:
            return True  # no test failed: the process died, or the module can't be imported
        if killer not in self._fit:
            clean = self._ask("clean", mutant.module, None, [killer])
            self._fit[killer] = clean["outcome"] == "survived"
        return self._fit[killer]

    def _ask(self, job: str, module: str, text: str | None, tests: Sequence[str]) -> dict[str, Any]:
        path = self._place.package / module
        changed = path
        if text is not None:
            changed = self._place.session / "mutants" / f"{job}.py"
            changed.write_text(text, encoding="utf-8", newline="\n")
        dotted = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        clean = sum(self._measured.seconds[test] for test in tests)
        request = Request(
            job=job,
            module=f"{self._place.name}.{dotted}",
            path=str(path),
            text=str(changed),
            tests=list(tests),
            limit=GRACE + PATIENCE * clean,
        )
        return self._hand.ask(request)


def place_of_drawn(session: Path, module: str, *, most: int, seed: int) -> Path:
    """Where the session keeps what was drawn from a module as it is now."""
    code = (PACKAGE / module).read_text(encoding="utf-8")
    key = hashlib.sha256(f"{module} {most} {seed}\n{code}".encode()).hexdigest()[:16]
    return session / "mutants" / f"{key}.json"


def drawn(
    session: Path, chosen: Sequence[str], *, most: int, seed: int
) -> Iterator[tuple[str, list[Mutant], int]]:
    """For each module its mutants, the named first, and from how many places they were drawn.

    What was drawn from a text is kept in the session: making it takes longer than trying it.
    """
    for module in chosen:
        code = (PACKAGE / module).read_text(encoding="utf-8")
        kept = place_of_drawn(session, module, most=most, seed=seed)
        if not kept.exists():
            mutants, places = sampled(module, code, most=most, seed=seed)
            whole = json.dumps({"places": places, "mutants": [vars(m) for m in mutants]})
            kept.write_text(whole, encoding="utf-8")
        data = json.loads(kept.read_text(encoding="utf-8"))
        mutants = [Mutant(**entry) for entry in data["mutants"]]
        yield module, [*named(module, code, FAULTS), *mutants], data["places"]


def fingerprint(place: Place, tests: Sequence[str]) -> str:
    """Names the tests of a mutant and what their files hold."""
    files = {file: digest(place.root / file) for file in sorted({file_of(test) for test in tests})}
    whole = json.dumps([place.variables.get(BASE), list(tests), files])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]
