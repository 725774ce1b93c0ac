# SPDX-License-Identifier: Apache-2.0
"""A diff as files and hunks: what two versions of a patch have in common, and where hunks stand."""

from __future__ import annotations

import re
from dataclasses import dataclass

# No file has a milliard lines, and Python makes no number of five thousand digits.
RANGE = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?= |$)")


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


def named_path(raw: bytes) -> str | None:
    """The path that one line of a diff's header names; None if it names none."""
    if raw.startswith(b"diff --git "):
        # Mode changes, empty and binary files have only this line; both halves are the same then.
        both = raw.removeprefix(b"diff --git ")
        old, new = both[: len(both) // 2], both[len(both) // 2 + 1 :]
        prefix = 3 if old.startswith(b'"') else 2
        if old[prefix:] != new[prefix:]:
            return None  # a rename or copy: the lines that follow name both sides
        return plain_name(new).partition("/")[2]
    name = re.match(rb"(---|\+\+\+|rename (?:from|to)|copy (?:from|to)) ([^\t]+)", raw)
    if name is None or name[2] == b"/dev/null":
        return None
    return plain_name(name[2]).partition("/")[2] if len(name[1]) == 3 else plain_name(name[2])


def plain_name(raw: bytes) -> str:
    if raw.startswith(b'"'):
        return unquote(raw[1:].removesuffix(b'"'))
    return raw.decode("utf-8", "surrogateescape")


def unquote(raw: bytes) -> str:
    """Undo git's C-style quoting of a path; what isn't such a quote stays, backslash and all."""
    plain = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b'"': b'"', b"\\": b"\\"}
    plain |= {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}

    def one(match: re.Match[bytes]) -> bytes:
        escape = match[1]
        return plain[escape] if escape in plain else bytes([int(escape, 8)])

    plain_text = re.sub(rb'\\([abfnrtv"\\]|[0-3][0-7]{2})', one, raw)
    return plain_text.decode("utf-8", "surrogateescape")
