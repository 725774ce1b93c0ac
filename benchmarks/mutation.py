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
import contextlib
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import mutation_record as record
from benchmarks import mutation_worker as worker
from benchmarks.mutants import Mutant, Named, inside_function, modules, named, sampled, statement

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "overlay" / "vllm" / "vllm" / "sm12x"
ROOMS = ("support", "mla", "ops", "loading", "envs")
SAMPLE, SEED = 30, 12
# What no room of these is run by, and what takes minutes.
LEFT_OUT = ("test_kernel_", "test_selftest", "test_soak_")
BASE = "SM12X_BASE"
TESTS = (ROOT / "tests" / "overlay", ROOT / "tests" / "patched")
# A mutant gets this many times what its tests take without one, and a minute for a busy machine.
PATIENCE, GRACE = 5, 60
# A survivor is tried on the slower tests of its files too, up to so many seconds in all.
SECOND_ROUND = 60
# A test of each file runs before the first mutant unless it takes longer, in seconds.
MOMENT = 10
# Test files that are measured together, after which what they told is kept.
BATCH = 8

FAULTS = (
    Named(
        name="a prompt's rows in another request's page table",
        module="mla/deepseek_v4.py",
        before="                attn_metadata.block_table,\n",
        after="                attn_metadata.block_table.roll(1, 0),\n",
    ),
    Named(
        name="a prompt's rows as another request's",
        module="mla/deepseek_v4.py",
        before="swa_metadata.token_to_req_indices[tokens],",
        after="swa_metadata.token_to_req_indices[tokens].flip(0),",
    ),
    Named(
        name="C4A's prompts take the decodes' picks",
        module="mla/deepseek_v4.py",
        before="local[first:]",
        after="local",
    ),
    Named(
        name="C4A's pages as long as C128A's",
        module="mla/deepseek_v4.py",
        before="// layer.compress_ratio",
        after="// 128",
    ),
    Named(
        name="dense prefill allowed",
        module="mla/backend.py",
        before="supports_dense_mha_prefill = False",
        after="supports_dense_mha_prefill = True",
    ),
    Named(
        name="GB10's memory as if it weren't shared",
        module="loading/gather.py",
        before="weights_share_memory=weights_share_memory()",
        after="weights_share_memory=False",
    ),
    Named(
        name="hangs end one version lower",
        module="support/flashinfer.py",
        before="HANGS_BELOW = (0, 6, 18)",
        after="HANGS_BELOW = (0, 6, 17)",
    ),
    Named(
        name="a window's page is another request's",
        module="mla/windows.py",
        before="block_table[requests.long().unsqueeze(1),",
        after="block_table[requests.long().flip(0).unsqueeze(1),",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the clean run told: seconds of each test that passes, the tests of each line."""

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, Sequence[str]]]

    def first(self, module: str, code: str, line: int) -> list[str]:
        """Tests that run the statement of this line, fastest first; of import, all that follow."""
        found = self.lines.get(module, {})
        wanted = statement(code, line) if inside_function(code, line) else found
        tests = {test for number in wanted for test in found.get(number, ())}
        return sorted(tests, key=lambda test: self.seconds[test])

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
        chosen, total = [], 0.0
        for test in sorted(others, key=lambda test: self.seconds[test]):
            total += self.seconds[test]
            if total > SECOND_ROUND:
                break
            chosen.append(test)
        return chosen


def file_of(test: str) -> str:
    return test.partition("::")[0]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run works: its folder, the wheel's Python, and the environment of its tests.

    package: the folder that is mutated; name: how it is imported; root: tests are named from here.
    """

    session: Path
    python: Path
    variables: Mapping[str, str]
    package: Path = PACKAGE
    name: str = "vllm.sm12x"
    root: Path = ROOT

    @property
    def options(self) -> list[str]:
        """pytest's, for tests that go by their own settings alone."""
        return ["--rootdir", str(self.root), "-c", os.devnull]

    def start(self, asked: Mapping[str, Any], **options: Any) -> subprocess.Popen[str]:
        command = [str(self.python), str(Path(worker.__file__)), json.dumps(asked)]
        return subprocess.Popen(
            command, cwd=self.root, env={**os.environ, **self.variables}, text=True, **options
        )


def prepare(options: argparse.Namespace) -> Place:
    """Make the folder, with what the wheel's Python needs on its path besides its own."""
    session: Path = options.session.resolve()
    path, temporary = session / "path", session / "tmp"
    for folder in (path, temporary, session / "mutants"):
        folder.mkdir(parents=True, exist_ok=True)
    (path / "sitecustomize.py").write_text(worker.SITE, encoding="utf-8")
    coverage = importlib.metadata.distribution("coverage").locate_file("coverage")
    with contextlib.suppress(FileExistsError):
        (path / "coverage").symlink_to(Path(str(coverage)))
    python = options.python.absolute()  # a venv's python is a link that must not be followed
    variables = {
        BASE: options.base.removeprefix("v"),
        "SM12X_TREE": str(options.tree.resolve()),
        "SM12X_PRISTINE": str(options.pristine.resolve()),
        "PATH": os.pathsep.join([str(python.parent), *options.path, os.environ["PATH"]]),
        "PYTHONPATH": str(path),
        "TMPDIR": str(temporary),
        # A fork of a process with such threads waits for them for ever.
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    return Place(session=session, python=python, variables=variables)


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
    lines = {
        module: {int(line): tests for line, tests in found.items()}
        for module, found in data["lines"].items()
    }
    return Measured(seconds=data["seconds"], lines=lines)


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


class Worker:
    """A process that tries mutants; started again where one takes it along."""

    def __init__(
        self,
        place: Place,
        files: Sequence[str],
        *,
        preload: Sequence[str] = (),
        before: Sequence[str] = (),
    ) -> None:
        asked = {
            "do": "serve",
            "package": f"/{place.package.name}/",
            "options": place.options,
            "files": list(files),
            "preload": list(preload),
            "before": list(before),
        }
        self._log = (place.session / "worker.log").open("a", encoding="utf-8")
        self._process = place.start(
            asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self.tests = set(self._answer()["tests"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker ended: see {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, request: worker.Request) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(vars(request)), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.communicate()  # it ends with its input
        self._log.close()


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
        request = worker.Request(
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


def fingerprint(place: Place, tests: Sequence[str]) -> str:
    """Names the tests of a mutant and what their files hold."""
    files = {file: digest(place.root / file) for file in sorted({file_of(test) for test in tests})}
    whole = json.dumps([place.variables.get(BASE), list(tests), files])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


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
