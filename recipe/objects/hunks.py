# SPDX-License-Identifier: Apache-2.0
"""A diff as files and hunks: what two versions of a patch have in common, and where hunks stand."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recipe.series.patch import named_path

RANGE = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True, kw_only=True)
class Hunk:
    """One hunk; line numbers count from 1, and each of its lines has its sign."""

    path: str
    old_start: int
    old_count: int
    new_start: int
    new_count: int
    lines: tuple[bytes, ...]

    @property
    def changed(self) -> tuple[bytes, ...]:
        """The added and removed lines."""
        return tuple(line for line in self.lines if line[:1] in (b"+", b"-"))

    def added(self) -> tuple[bytes, ...]:
        return tuple(line[1:] for line in self.lines if line[:1] == b"+")

    def removed(self) -> tuple[bytes, ...]:
        return tuple(line[1:] for line in self.lines if line[:1] == b"-")


def read_hunks(content: bytes) -> tuple[Hunk, ...]:
    """Every hunk of a patch or diff, in order; binary ones have none."""
    return _read(content)[0]


def change_of(content: bytes) -> tuple[tuple[bytes, ...], ...]:
    """What a patch does, without where: changed lines by hunk, and what else its diff says.

    Two patches with equal changes differ in context, positions, paths and blob ids alone. Modes and
    the data of binary hunks belong to the change; ``index`` and path lines don't.
    """
    hunks, extra = _read(content)
    return (*(hunk.changed for hunk in hunks), tuple(extra))


def count_lines(content: bytes) -> tuple[int, int]:
    """Added and removed lines of a patch, by its hunks."""
    hunks = read_hunks(content)
    return sum(len(h.added()) for h in hunks), sum(len(h.removed()) for h in hunks)


def _read(content: bytes) -> tuple[tuple[Hunk, ...], list[bytes]]:
    hunks: list[Hunk] = []
    extra: list[bytes] = []
    path = ""
    lines = content.split(b"\n")
    position = next((n for n, line in enumerate(lines) if line.startswith(b"diff --git ")), None)
    while position is not None and position < len(lines):
        line = lines[position]
        found = RANGE.match(line)
        if found:
            hunk, position = _read_hunk(path, found, lines, position + 1)
            hunks.append(hunk)
            continue
        position += 1
        path = named_path(line) or path
        if line and not re.match(
            rb"diff |index |--- |\+\+\+ |rename |copy |similarity |-- $", line
        ):
            extra.append(line)
    return tuple(hunks), extra


def _read_hunk(
    path: str, found: re.Match[bytes], lines: list[bytes], position: int
) -> tuple[Hunk, int]:
    """A hunk's lines are counted: one may look like a header of the diff."""
    start, count, new_start, new_count = (1 if n is None else int(n) for n in found.groups())
    old, new = count, new_count
    taken: list[bytes] = []
    while position < len(lines) and (old > 0 or new > 0 or lines[position].startswith(b"\\")):
        line = lines[position]
        taken.append(line)
        old -= line[:1] in (b" ", b"-", b"")
        new -= line[:1] in (b" ", b"+", b"")
        position += 1
    hunk = Hunk(
        path=path,
        old_start=start,
        old_count=count,
        new_start=new_start,
        new_count=new_count,
        lines=tuple(taken),
    )
    return hunk, position
