# SPDX-License-Identifier: Apache-2.0
"""What a person reads while a build runs: steps with their seconds, all of it on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from recipe.ground.secret import hidden


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One finished stage and how long it took, in seconds."""

    name: str
    seconds: float


@dataclass(kw_only=True)
class Log:
    """Prints stages and keeps their timings for the report."""

    verbose: bool = False
    stages: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """Print `title`, run the block, print a tick and the seconds; remember it as `name`."""
        say(f"{title} ...")
        start = time.monotonic()
        yield
        seconds = time.monotonic() - start
        self.stages.append(Stage(name=name, seconds=round(seconds, 2)))
        say(f"  {tick()} {seconds:.1f} s")


def tick() -> str:
    encoding = (sys.stderr.encoding or "ascii").lower()
    return "✓" if encoding.startswith("utf") else "ok"


def say(line: str) -> None:
    """A line for the reader; no credentials of an address stand in it."""
    print(hidden(line), file=sys.stderr, flush=True)


class Progress:
    """A line that counts bytes: rewritten on a terminal, left out elsewhere."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label = label
        self.total = total
        self.shown = -1.0
        self.terminal = sys.stderr.isatty()

    def update(self, done: int) -> None:
        now = time.monotonic()
        if not self.terminal or now - self.shown < 0.1:
            return
        self.shown = now
        of = f" of {self.total / 2**20:.0f}" if self.total else ""
        sys.stderr.write(f"\r  {self.label}: {done / 2**20:.0f}{of} MiB\x1b[K")
        sys.stderr.flush()

    def close(self) -> None:
        if self.terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
