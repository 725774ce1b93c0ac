# SPDX-License-Identifier: Apache-2.0
"""Which patch makes a command fail: git bisect over a temporary tree with one commit a patch.

The overlay is laid first, so that every patch is judged with the files that it calls.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from recipe.bases.releases import Base
from recipe.ground import run, scratch
from recipe.ground.errors import TestsFailed
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.objects.git import Store
from recipe.objects.repository import WorkTree, callers_environment
from recipe.series.topics import Series
from recipe.series.tree import OVERLAY, apply_all, write_repository

SKIP = 125  # "can't be judged", as git bisect has it
ABORT = 128  # from here on git bisect stops: a signal, or a shell that can't go on


class Result(StrEnum):
    """found: one patch. passes: nothing fails. undecided: every way to tell was skipped."""

    FOUND = "found"
    PASSES = "passes"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A patch, or the overlay, by what a person knows it by."""

    path: str
    topic: str | None
    subject: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """runs: how often the command ran. candidates: all that may be the one, oldest first."""

    base: str
    result: Result
    candidates: tuple[Suspect, ...]
    runs: int
    control: int


def bisect(
    project: Project, store: Store, base: Base, series: Series, source: str, test: str
) -> Verdict:
    """Run `test` on the unpatched base, on all of the series, and then where git says."""
    applied = apply_all(store, source, series.patches, series.files, overlay_first=True)
    known = {p.path: Suspect(path=p.path, topic=p.topic, subject=p.subject) for p in series.patches}
    known[OVERLAY] = Suspect(path=OVERLAY, topic=None, subject="the files of overlay/")
    suspects = {commit: known[path] for path, commit in applied.commits}
    with scratch.folder(project.cache, "bisect") as folder:
        work = WorkTree(root=folder / "tree")
        write_repository(store, applied, work.root, base.tag)
        judge = Judge(work=work, base=base, test=test, script=folder / "judge")
        judge.write()
        control = judge.control(applied.base)
        say(f"with all of the series, {len(series.patches)} patches:")
        status = judge.run(applied.head)
        if status == 0:
            return Verdict(
                base=base.tag, result=Result.PASSES, candidates=(), runs=2, control=control
            )
        if status == SKIP or status >= ABORT:
            raise not_judged(test, status, "all of the series")
        left, runs = judge.bisect(applied.base, applied.head)
    return Verdict(
        base=base.tag,
        result=Result.FOUND if len(left) == 1 else Result.UNDECIDED,
        candidates=tuple(suspects[commit] for commit in left),
        runs=2 + runs,
        control=control,
    )


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The command, and the tree that it is run in."""

    work: WorkTree
    base: Base
    test: str
    script: Path

    def write(self) -> None:
        """The script that every run goes through.

        What a run leaves behind must not decide the next one, and a compiled file is taken for
        current if its source has the same size and second: so each starts from a clean tree.
        """
        lines = [
            shlex.join([*callers_environment(), "sh", "-c", self.test]),
            "status=$?",
            # What can't be cleaned decides nothing: git bisect stops at such a status.
            f"git reset --quiet --hard && git clean -ffdxq || exit {ABORT}",
            "exit $status",
        ]
        self.script.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def env(self) -> dict[str, str]:
        return {**self.work.env, "SM12X_BASE": self.base.tag}

    def show(self, *args: str) -> int:
        return run.show(args, cwd=self.work.root, env=self.env)

    def run(self, commit: str) -> int:
        self.work.text("checkout", "--quiet", "--detach", commit)
        return self.show("sh", str(self.script))

    def control(self, commit: str) -> int:
        """The run without any patch, which must be good: TestsFailed otherwise."""
        say(f"on {self.base.tag} without any patch:")
        status = self.run(commit)
        if status == SKIP:
            raise not_judged(self.test, status, f"the unpatched {self.base.tag}")
        if status != 0:
            raise TestsFailed(
                f"{self.test!r} ends with {status} on the unpatched {self.base.tag}",
                means="So no patch makes it fail; what it needs may be missing here.",
                next="mend the command, or try another base: "
                f"python build.py bisect --base B --test {shlex.quote(self.test)}",
            )
        return status

    def bisect(self, good: str, bad: str) -> tuple[list[str], int]:
        """The commits that may be the first bad one, oldest first, and the number of runs."""
        self.show("git", "bisect", "start", bad, good)
        if len(self.left(good)) > 1:
            self.show("git", "bisect", "run", "sh", str(self.script))
        left = self.left(good)
        skipped = self.refs("skip-*")
        if any(commit not in skipped for commit in left[:-1]):
            raise not_judged(self.test, ABORT, self.work.text("log", "-1", "--format=%s"))
        log = self.work.text("bisect", "log").splitlines()
        words = tuple(f"git bisect {word} " for word in ("good", "bad", "skip"))
        return left, sum(line.startswith(words) for line in log)

    def left(self, good: str) -> list[str]:
        """What lies after the last good commit and up to the first that is known to be bad."""
        known = [f"^{commit}" for commit in (good, *self.refs("good-*"))]
        return self.work.text("rev-list", "--reverse", "refs/bisect/bad", *known).splitlines()

    def refs(self, pattern: str) -> list[str]:
        return self.work.text(
            "for-each-ref", "--format=%(objectname)", f"refs/bisect/{pattern}"
        ).splitlines()


def not_judged(test: str, status: int, where: str) -> TestsFailed:
    if status == SKIP:
        return TestsFailed(
            f"{test!r} ends with {SKIP} (can't be judged) on {where}",
            means="A search needs a good and a bad end.",
            next="let the command end with 0 where it is good and with 1 where it is bad",
        )
    return TestsFailed(
        f"{test!r} ends with {ABORT} or more (a signal) on {where}",
        means="git bisect stops at such a status, since it says nothing about the patch.",
        next=f"python build.py bisect --test {shlex.quote(f'{test} || exit 1')}",
    )


def as_text(verdict: Verdict) -> str:
    runs = f"{verdict.runs} runs, the unpatched {verdict.base} passes"
    lines = [
        f"  {one.path}" + (f" ({one.topic})" if one.topic else "") + f": {one.subject}"
        for one in verdict.candidates
    ]
    match verdict.result:
        case Result.PASSES:
            return f"nothing fails: it passes with all of the series as well ({runs})"
        case Result.FOUND:
            return "\n".join([f"the first that fails ({runs}):", *lines])
        case Result.UNDECIDED:
            return "\n".join([f"one of these, the others can't be judged ({runs}):", *lines])


def as_json(verdict: Verdict) -> dict[str, Any]:
    rows = [
        {"path": one.path, "topic": one.topic, "subject": one.subject} for one in verdict.candidates
    ]
    return {
        "base": verdict.base,
        "result": verdict.result,
        "patch": rows[0] if verdict.result == Result.FOUND else None,
        "candidates": rows,
        "runs": verdict.runs,
        "control": {"status": verdict.control},
    }
