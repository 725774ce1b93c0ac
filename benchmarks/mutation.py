# SPDX-License-Identifier: Apache-2.0
"""How many faults put into the overlay's support, mla, ops, loading and envs do its tests see?

PYTHON -m benchmarks.mutation run --session FOLDER --python WHEEL_PYTHON --base v0.33.0
    --tree PATCHED --pristine UNPATCHED
PYTHON -m benchmarks.mutation write --session FOLDER
PYTHON -m benchmarks.mutation check

PYTHON has requirements/mutation.lock installed. WHEEL_PYTHON is a test environment's, of the same
Python version: a wheel, and what tests/wheel-env.toml names for its base; the two folders hold that
base's sources with and without the series (`build.py apply --tree`). `run` first notes which test
runs which line, then tries mutants on the tests of their line, fastest first, until one fails; a
survivor is tried on the other tests of those files as well. It goes on where it was stopped:
FOLDER keeps what was found, and another base tries what survived those before, for some modules
are for some releases alone. `write` puts it into benchmarks/mutation.json, where a person gives
each survivor a reason; `check` holds that file against the goal and the overlay.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.mutants import record
from benchmarks.mutants.draw import Mutant, modules
from benchmarks.mutants.measured import ROOMS, measure
from benchmarks.mutants.place import PACKAGE, Worker, prepare
from benchmarks.mutants.trial import Trial, drawn, fingerprint, place_of_drawn

SAMPLE, SEED = 30, 12


def run(options: argparse.Namespace) -> int:
    """Try what wasn't tried, and survivors whose tests changed; print a line for each mutant."""
    place = prepare(options)
    measured = measure(place)
    found = record.Found(place.session / "results.jsonl")
    chosen = [m for m in modules(PACKAGE, ROOMS) if not options.only or m.startswith(options.only)]
    files = measured.files(chosen)
    hand = Worker(
        place, files, preload=("torch", "numpy", "triton"), before=measured.fastest_of(files)
    )
    trial = Trial(place, measured, hand)
    counts: Counter[str] = Counter()
    for module, mutants, places in drawn(
        place.session, chosen, most=options.sample, seed=options.seed
    ):
        code = (PACKAGE / module).read_text(encoding="utf-8")
        print(f"{module}: {len(mutants)} mutants, of {places} places", flush=True)
        for mutant in mutants:
            first, second = trial.tests(mutant, code)
            mark = fingerprint(place, [*first, *second])
            if found.stands(mutant.job, mark):
                continue
            answer = trial.outcome(mutant, first, second)
            found.add(mutant, answer, mark)
            counts[answer["outcome"]] += 1
            print(line_of(mutant, answer), flush=True)
    hand.close()
    print(dict(counts))
    return 0


def line_of(mutant: Mutant, answer: Mapping[str, Any]) -> str:
    told = f"{answer['outcome']:9} {answer['way']:4} {answer['seconds']:>6} s  "
    told += f"{mutant.module}:{mutant.line} {mutant.operator}"
    if answer["outcome"] == "survived":
        told += f"\n    - {mutant.before}\n    + {mutant.after}"
    return told


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    trying = verbs.add_parser("run", help="try mutants")
    trying.add_argument("--session", type=Path, required=True)
    trying.add_argument("--python", type=Path, required=True)
    trying.add_argument("--base", required=True)
    trying.add_argument("--tree", type=Path, required=True)
    trying.add_argument("--pristine", type=Path, required=True)
    trying.add_argument("--path", action="append", default=[], help="a folder of tools, as cmake")
    trying.add_argument("only", nargs="*", help="rooms or modules, as mla or mla/windows.py")
    writing = verbs.add_parser("write", help="write benchmarks/mutation.json")
    writing.add_argument("--session", type=Path, required=True)
    verbs.add_parser("check", help="hold benchmarks/mutation.json against the goal")
    for verb in (trying, writing):
        verb.add_argument("--sample", type=int, default=SAMPLE, help="mutants a module (30)")
        verb.add_argument("--seed", type=int, default=SEED, help="draws them (12)")
    options = parser.parse_args()
    match options.verb:
        case "run":
            options.only = tuple(options.only)
            return run(options)
        case "write":
            session: Path = options.session.resolve()
            found = record.Found(session / "results.jsonl")
            how = {"most": options.sample, "seed": options.seed}
            names = modules(PACKAGE, ROOMS)
            names = [name for name in names if place_of_drawn(session, name, **how).exists()]
            drawing = drawn(session, names, **how)
            record.write(PACKAGE, found, drawing, sample=options.sample, seed=options.seed)
            return 0
        case _:
            return record.check(PACKAGE, modules(PACKAGE, ROOMS))


if __name__ == "__main__":
    sys.exit(main())
