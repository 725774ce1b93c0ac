# SPDX-License-Identifier: Apache-2.0
"""The lines by which upstream took a topic, and whether a later release still has them.

Upstream rarely takes a patch as it is. What it did instead stands where the patch was: between the
last release that the patch applied on and the first one that has the topic, these are the lines
that upstream added within the patch's hunks. A later release without one of them has changed it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import lru_cache

from recipe.follow import NEAR_LINES, distance
from recipe.git import Store
from recipe.hunks import read_hunks
from recipe.upstreamed import own_hunks

# An added line that is at least this like one of the patch's own is upstream's version of it.
ALIKE = 0.6
# Without such a line, all that upstream added right there is watched, up to this many lines.
MOST_LINES = 24
LEAST_LETTERS = 4


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Lines to watch: (path, line number in the first release that has the topic, text)."""

    release: str
    lines: tuple[tuple[str, int, bytes], ...]


def footprint(store: Store, before: str, after: str, release: str) -> Footprint:
    """What upstream's `release` has where the patch between `before` and `after` was."""
    ours = own_hunks(store, before, after)
    paths = sorted({hunk.path for hunk in ours})
    diff = (
        b""
        if not paths
        else store.git("diff", "-U0", "--no-renames", before, release, "--", *paths)
    )
    near: list[tuple[str, int, bytes]] = []
    alike: list[tuple[str, int, bytes]] = []
    for theirs in read_hunks(diff):
        own = [h for h in ours if h.path == theirs.path and distance(h, theirs) <= NEAR_LINES]
        mine = [line.strip() for hunk in own for line in hunk.added()]
        for number, text in enumerate(theirs.added() if own else (), theirs.new_start):
            line = (theirs.path, number, text.strip())
            if len(line[2]) < LEAST_LETTERS:
                continue
            if any(distance(hunk, theirs) == 0 for hunk in own):
                near.append(line)
            if any(is_like(line[2], other) for other in mine):
                alike.append(line)
    return Footprint(release=release, lines=tuple(alike or near[:MOST_LINES]))


def is_like(first: bytes, second: bytes) -> bool:
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    return matcher.quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE


def missing(store: Store, found: Footprint, release: str) -> tuple[str, ...]:
    """What `release` hasn't got of the watched lines; empty if it has them all."""
    gone: list[str] = []
    for path in dict.fromkeys(path for path, _, _ in found.lines):
        here = (
            path
            if store.has_path(release, path)
            else renames(store, found.release, release).get(path)
        )
        if here is None:
            gone.append(f"upstream has no {path} any more")
            continue
        have = {line.strip() for line in store.read(release, here).split(b"\n")}
        gone += [
            f"{place(line)} is gone"
            for line in found.lines
            if line[0] == path and line[2] not in have
        ]
    return tuple(gone)


def place(line: tuple[str, int, bytes]) -> str:
    """A watched line for a person: ``path:number text``."""
    path, number, text = line
    return f"{path}:{number} {text.decode('utf-8', 'replace')}"


@lru_cache(maxsize=64)
def renames(store: Store, old: str, new: str) -> dict[str, str]:
    """Old name to new name; finding renamed files among thousands takes a second."""
    return dict(store.renames(old, new))
