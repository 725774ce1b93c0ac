# SPDX-License-Identifier: Apache-2.0
"""Where a mutation run works, and the process that works there."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.mutants.worker.mutated import SITE, START
from benchmarks.mutants.worker.tests import Request

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "overlay" / "vllm" / "vllm" / "sm12x"
BASE = "SM12X_BASE"


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
        command = [str(self.python), "-c", START, json.dumps(asked)]
        return subprocess.Popen(
            command, cwd=self.root, env={**os.environ, **self.variables}, text=True, **options
        )


def prepare(options: argparse.Namespace) -> Place:
    """Make the folder, with what the wheel's Python needs on its path besides its own."""
    session: Path = options.session.resolve()
    path, temporary = session / "path", session / "tmp"
    for folder in (path, temporary, session / "mutants"):
        folder.mkdir(parents=True, exist_ok=True)
    (path / "sitecustomize.py").write_text(SITE, encoding="utf-8")
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

    def ask(self, request: Request) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(vars(request)), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.communicate()  # it ends with its input
        self._log.close()
