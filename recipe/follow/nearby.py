# SPDX-License-Identifier: Apache-2.0
"""What upstream added where a patch is: it may be upstream's own version of the same thing."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from recipe.objects.hunks import Hunk

# An upstream change this near to a hunk is worth a look.
NEAR_LINES = 12
# An added line that is at least this like one of the patch's own is upstream's version of it.
ALIKE = 0.6
# A shorter line says nothing.
LEAST_LETTERS = 4


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line that upstream added near a patch. touching: within its hunks; alike: to its own."""

    path: str
    number: int
    text: bytes
    touching: bool
    alike: bool

    def __str__(self) -> str:
        return f"{self.path}:{self.number} {self.text.decode('utf-8', 'replace')}"


def near_lines(
    ours: Iterable[Hunk],
    theirs: Iterable[Hunk],
    *,
    prose: Mapping[str, Collection[int]],
    own_prose: Mapping[str, Collection[int]],
) -> tuple[Line, ...]:
    """Upstream's added lines near the patch's. Both diffs are without context, of one old file.

    prose, own_prose: by path, the lines of upstream's file and of ours that are comments or
    docstrings: people word the same thing alike, whatever the code does.
    """
    own_by_path: dict[str, list[Hunk]] = {}
    for hunk in ours:
        own_by_path.setdefault(hunk.path, []).append(hunk)
    found = []
    for hunk in theirs:
        own = [one for one in own_by_path.get(hunk.path, ()) if distance(one, hunk) <= NEAR_LINES]
        mine = [
            line.strip()
            for one in own
            for number, line in enumerate(one.added(), one.new_start)
            if number not in own_prose.get(one.path, ())
        ]
        touching = any(distance(one, hunk) == 0 for one in own)
        for number, line in enumerate(hunk.added() if own else (), hunk.new_start):
            text = line.strip()
            if len(text) < LEAST_LETTERS:
                continue
            said = number in prose.get(hunk.path, ())
            alike = not said and any(is_like(text, other) for other in mine)
            found.append(
                Line(path=hunk.path, number=number, text=text, touching=touching, alike=alike)
            )
    return tuple(found)


def distance(first: Hunk, second: Hunk) -> int:
    """Lines of the old file between two hunks; 0 where they meet."""
    ends = (first.old_start + first.old_count, second.old_start + second.old_count)
    return max(second.old_start - ends[0], first.old_start - ends[1], 0)


def is_like(first: bytes, second: bytes) -> bool:
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    return matcher.quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE
