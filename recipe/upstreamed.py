# SPDX-License-Identifier: Apache-2.0
"""Has upstream taken a patch? Four signals, each with its evidence.

Releases that come as archives have no commits between them, so `patch-id` is taken hunk by hunk of
what upstream changed in the patch's files; where both releases come from git with their history,
commit by commit too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from recipe import run
from recipe.git import Store
from recipe.hunks import Hunk, read_hunks
from recipe.patch import Patch, line_of


class Sign(StrEnum):
    """What speaks for it. NUMBER alone proves nothing: a change may be mentioned and not be in."""

    REVERSE = "reverse-apply"
    EMPTY = "empty"
    PATCH_ID = "patch-id"
    NUMBER = "number"


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One sign and what was seen."""

    sign: Sign
    evidence: str

    def __str__(self) -> str:
        return f"{self.sign}: {self.evidence}"


@dataclass(frozen=True, kw_only=True)
class Releases:
    """The two upstream trees that a patch moves between, as commits, with their names.

    history: whether the store has the commits that are in the new one and not in the old one.
    """

    old: str
    old_tag: str
    new: str
    new_tag: str
    history: bool = False


def reversible(store: Store, new: str, patches: tuple[Patch, ...]) -> dict[str, Signal]:
    """The patches whose result the release `new` holds, by path.

    They are taken off it as quilt would, last first, on one temporary index: a patch that another
    one was written on top of can only be taken off after that one.
    """
    found: dict[str, Signal] = {}
    with store.index(new) as index:
        for patch in reversed(patches):
            try:
                store.apply(patch.content, index, reverse=True)
            except run.CommandFailed:
                continue
            where = ", ".join(patch.touched)
            found[patch.path] = Signal(
                sign=Sign.REVERSE, evidence=f"it can be taken off upstream's {where}"
            )
    return found


def empty(result: str, stack: str, tag: str) -> Signal | None:
    """The three-way result is the tree it was merged into."""
    if result != stack:
        return None
    return Signal(sign=Sign.EMPTY, evidence=f"the three-way result changes nothing in {tag}")


def same_ids(store: Store, before: str, after: str, releases: Releases) -> list[str]:
    """Where upstream's own diff has the patch's hunks, by patch-id; one place or '' a hunk."""
    ours = own_hunks(store, before, after)
    paths = sorted({hunk.path for hunk in ours})
    if not paths:
        return []
    span = (releases.old, releases.new)
    theirs = read_hunks(store.git("diff", "--unified=0", "--no-renames", *span, "--", *paths))
    known = {ident: theirs[number] for number, ident in patch_ids(store, theirs).items()}
    found = [known.get(ident) for _, ident in sorted(patch_ids(store, ours).items())]
    return ["" if hunk is None else f"{hunk.path}:{hunk.new_start}" for hunk in found]


def all_in(places: list[str], releases: Releases) -> Signal | None:
    """Every hunk is in what upstream changed between the two releases."""
    if not places or "" in places:
        return None
    span = f"{releases.old_tag}..{releases.new_tag}"
    evidence = f"all {len(places)} changes are in {span}: {', '.join(places)}"
    return Signal(sign=Sign.PATCH_ID, evidence=evidence)


def own_hunks(store: Store, before: str, after: str) -> tuple[Hunk, ...]:
    """The patch's changes without context, so that what stands around them doesn't count."""
    return read_hunks(store.git("diff", "--unified=0", "--no-renames", before, after))


def patch_ids(store: Store, hunks: tuple[Hunk, ...]) -> dict[int, str]:
    """``git patch-id --stable`` of each hunk, by its number; the path is left out of it."""
    parts = []
    for number, hunk in enumerate(hunks):
        counts = b"@@ -1,%d +1,%d @@" % (len(hunk.removed()), len(hunk.added()))
        head = [
            b"commit %040x" % (number + 1),
            b"diff --git a/x b/x",
            b"--- a/x",
            b"+++ b/x",
            counts,
        ]
        parts.append(b"\n".join([*head, *hunk.changed]) + b"\n")
    answer = store.git("patch-id", "--stable", stdin=b"".join(parts)).decode().split()
    return {
        int(commit, 16) - 1: ident for ident, commit in zip(answer[::2], answer[1::2], strict=True)
    }


def same_commit(store: Store, patch: Patch, releases: Releases) -> Signal | None:
    """A commit between the two releases, where they have a history, has the patch's patch-id."""
    if not releases.history:
        return None
    span = f"{releases.old}..{releases.new}"
    log = store.git("log", "--format=commit %H", "-p", "--full-index", span, "--", *patch.touched)
    rows = store.git("patch-id", "--stable", stdin=log).decode().split()
    known = dict(zip(rows[::2], rows[1::2], strict=True))
    ours = store.git("patch-id", "--stable", stdin=patch.content).decode().split()
    if not ours or ours[0] not in known:
        return None
    subject = store.text("log", "-1", "--format=%h %s", known[ours[0]])
    return Signal(sign=Sign.PATCH_ID, evidence=f"commit {subject} is the same change")


def numbers(patch: Patch) -> tuple[str, ...]:
    """The pull requests and issues that the patch's header names."""
    header = patch.content[: patch.content.find(b"\ndiff --git ")].decode("utf-8", "replace")
    found: list[str] = []
    for name in ("Forwarded", "Origin"):
        line = header.splitlines()[line_of(header, f"{name}: ") - 1 :][:1]
        if line and line[0].startswith(f"{name}: "):
            found += re.findall(r"(?:#|/pull/|/issues/)(\d+)", line[0])
    return tuple(dict.fromkeys(found))


def named(store: Store, patch: Patch, releases: Releases) -> Signal | None:
    """Upstream's text, new since the old release, names the patch's pull request."""
    wanted = numbers(patch)
    if not wanted:
        return None
    pattern = "|".join(rf"(#|/pull/|/issues/){number}([^0-9]|$)" for number in wanted)
    before = {row.split(":", 2)[2] for row in grep(store, pattern, releases.old)}
    rows = grep(store, pattern, releases.new)
    fresh = [row for row in rows if row.split(":", 2)[2] not in before]
    if releases.history:
        span = f"{releases.old}..{releases.new}"
        fresh += store.text("log", "--format=%h %s", "-E", f"--grep={pattern}", span).splitlines()
    if not fresh:
        return None
    return Signal(sign=Sign.NUMBER, evidence=f"{releases.new_tag} says {fresh[0].strip()!r}")


def grep(store: Store, pattern: str, commit: str) -> list[str]:
    """Lines of a tree that match, as path:line:text."""
    try:
        out = store.git("grep", "-n", "-I", "-E", "-e", pattern, commit)
    except run.CommandFailed as error:
        if error.returncode == 1:
            return []
        raise
    return [line.partition(":")[2] for line in out.decode("utf-8", "replace").splitlines()]
