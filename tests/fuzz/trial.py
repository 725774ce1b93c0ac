# SPDX-License-Identifier: Apache-2.0
"""One parser tried by atheris, in a fork of its own: libFuzzer ends the process that it runs in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.parser import Parser

MOST_MEMORY_MIB = 1500
# Of the clock, for what no signal ends; the parser's own bound is of processor time.
HANG_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Tried:
    """How many inputs a parser got and how many of them it took; faults: one of each kind, by the
    kind's name, with the hash that names its input."""

    name: str
    inputs: int
    accepted: int
    faults: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Trial:
    """What a fork counts; it writes that down when it has tried enough, and ends."""

    parser: Parser
    most: int
    folder: Path
    keep: Path
    inputs: int = 0
    accepted: int = 0
    faults: dict[str, str] = field(default_factory=dict)

    def __call__(self, content: bytes) -> None:
        self.inputs += 1
        try:
            self.accepted += self.parser.accepts(content, self.folder)
        except BaseException as error:
            kind = kind_of(error)
            if kind not in self.faults:
                self.faults[kind] = self.kept(content, error)
        if self.inputs >= self.most:
            self.end()

    def kept(self, content: bytes, error: BaseException) -> str:
        name = hashlib.sha256(content).hexdigest()[:16]
        place = self.keep / self.parser.name
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
        told = "".join(traceback.format_exception(error))
        (place / f"{name}.txt").write_text(told, encoding="utf-8", errors="backslashreplace")
        return name

    def end(self) -> None:
        said = {"inputs": self.inputs, "accepted": self.accepted, "faults": self.faults}
        (self.keep / f"{self.parser.name}.json").write_text(json.dumps(said), encoding="utf-8")
        os._exit(0)


def kind_of(error: BaseException) -> str:
    """The class and the last line of ours that it passed: one fault, however many inputs."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/recipe/" in f.filename and "/tests/" not in f.filename]
    last = (ours or frames)[-1]
    where = last.filename.rpartition("/recipe/")[2] if ours else Path(last.filename).name
    return f"{type(error).__name__} at {where}:{last.lineno}"


def tried(parser: Parser, count: int, seed: int, keep: Path) -> Tried:
    """Try `count` inputs made from the parser's real ones, the same with the same seed."""
    report = keep / f"{parser.name}.json"
    report.unlink(missing_ok=True)
    # Not where a machine may keep folders on a slow disk.
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=base) as name:
        child = os.fork()
        if child == 0:
            try:
                fuzz(parser, count, seed, Path(name), keep)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
    if not report.exists():
        what = f"ended with {os.waitstatus_to_exitcode(status)}"
        return Tried(name=parser.name, inputs=0, accepted=0, faults={what: "see the log"})
    said: dict[str, Any] = json.loads(report.read_bytes())
    return Tried(name=parser.name, **said)


def fuzz(parser: Parser, count: int, seed: int, place: Path, keep: Path) -> None:
    import atheris

    corpus, folder = place / "corpus", place / "folder"
    corpus.mkdir()
    folder.mkdir()
    for number, content in enumerate(parser.inputs() or [b""]):
        (corpus / str(number)).write_bytes(content)
    log = os.open(keep / f"{parser.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    trial = Trial(parser=parser, most=count, folder=folder, keep=keep)
    options = {
        "seed": seed,
        "max_len": parser.largest,
        "rss_limit_mb": MOST_MEMORY_MIB,
        "timeout": HANG_SECONDS,
        "artifact_prefix": f"{keep}/{parser.name}-",
        "print_final_stats": 0,
    }
    words = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([parser.name, *words, str(corpus)], trial)
    atheris.Fuzz()


def clear(keep: Path) -> None:
    shutil.rmtree(keep, ignore_errors=True)
    keep.mkdir(parents=True)
