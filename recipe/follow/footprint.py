# SPDX-License-Identifier: Apache-2.0
"""The lines by which upstream took a topic, and whether a later release still has them.

Upstream rarely takes a patch as it is. What it did instead stands where the patch was: between the
last release that the patch applied on and the first one that has the topic, these are the lines
that upstream added within the patch's hunks. A later release without one of them has changed it.
"""

from __future__ import annotations

from dataclasses import dataclass

from recipe.follow.nearby import Line, near_lines
from recipe.follow.prose import prose_at
from recipe.follow.upstreamed import own_hunks
from recipe.objects.git import Store
from recipe.objects.hunks import read_hunks

# Without a line like the patch's own, what upstream added within its hunks is watched, up to here.
MOST_LINES = 24


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The lines to watch, by their numbers in the first release that has the topic."""

    release: str
    lines: tuple[Line, ...]


def footprint(store: Store, before: str, after: str, release: str) -> Footprint:
    """What upstream's `release` has where the patch between `before` and `after` was."""
    ours = own_hunks(store, before, after)
    paths = sorted({hunk.path for hunk in ours})
    diff = b""
    if paths:
        diff = store.git("diff", "-U0", "--no-renames", before, release, "--", *paths)
    prose = {path: prose_at(store, release, path) for path in paths}
    own_prose = {path: prose_at(store, after, path) for path in paths}
    near = near_lines(ours, read_hunks(diff), prose=prose, own_prose=own_prose)
    alike = tuple(line for line in near if line.alike)
    touching = tuple(line for line in near if line.touching)
    return Footprint(release=release, lines=alike or touching[:MOST_LINES])


def missing(store: Store, found: Footprint, release: str) -> tuple[str, ...]:
    """What `release` hasn't got of the watched lines; empty if it has them all."""
    gone: list[str] = []
    for path in dict.fromkeys(line.path for line in found.lines):
        here: str | None = path
        if not store.has_path(release, path):
            here = store.renamed(found.release, release, path)
        if here is None:
            gone.append(f"upstream has no {path} any more")
            continue
        have = {line.strip() for line in store.read(release, here).split(b"\n")}
        gone += [
            f"{line} is gone" for line in found.lines if line.path == path and line.text not in have
        ]
    return tuple(gone)
