# SPDX-License-Identifier: Apache-2.0
"""Has upstream taken a patch? Four signals, each with its evidence.

Releases that come as archives have no commits between them, so `patch-id` is taken hunk by hunk of
what upstream changed in the patch's files; where both releases come from git with their history,
commit by commit too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from recipe.follow.nearby import NEAR_LINES, distance
from recipe.ground import run
from recipe.objects.git import DoesNotApply, Store
from recipe.objects.hunks import Hunk, read_hunks
from recipe.objects.threeway import merge
from recipe.series.patch import Patch, line_of


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


@dataclass(frozen=True, kw_only=True)
class TakenOff:
    """A patch that could be taken off upstream's tree: that tree with and without it."""

    upstream: str
    without: str


def reversible(store: Store, new: str, patches: tuple[Patch, ...]) -> dict[str, TakenOff]:
    """The patches whose result the release `new` seems to hold, by path.

    They are taken off it as quilt would, last first, on one temporary index: a patch that another
    one was written on top of can only be taken off after that one.
    """
    found: dict[str, TakenOff] = {}
    tree = store.tree_of(new)
    with store.index(new) as index:
        for patch in reversed(patches):
            try:
                store.apply(patch.content, index, reverse=True)
            except DoesNotApply:
                continue
            without = store.git("write-tree", index=index).decode().strip()
            found[patch.path] = TakenOff(upstream=tree, without=without)
            tree = without
    return found


def taken_off(
    store: Store, patch: Patch, before: str, after: str, found: TakenOff | None
) -> Signal | None:
    """The patch can be taken off upstream's tree, and put back where it was.

    git takes a patch off wherever its lines are, a copy of the code that upstream always had or
    made since included. A merge knows the place: brought back there, the change must give
    upstream's tree again.
    """
    if found is None:
        return None
    back = merge(store, before=before, after=after, stack=found.without)
    if back.conflicts or back.tree != found.upstream:
        return None
    where = ", ".join(patch.touched)
    return Signal(sign=Sign.REVERSE, evidence=f"it can be taken off upstream's {where}")


def empty(store: Store, before: str, after: str, stack: str, releases: Releases) -> Signal | None:
    """Merged into the stack, the patch changes nothing, and into upstream's own tree neither.

    On a stack with other patches of ours one of those may have brought what is there.
    """
    for tree in dict.fromkeys(map(store.tree_of, (stack, releases.new))):
        merged = merge(store, before=before, after=after, stack=tree)
        # In a conflict over a whole file git leaves the stack's: that is no sign of anything.
        if merged.conflicts or merged.tree != tree:
            return None
    evidence = f"the three-way result changes nothing in {releases.new_tag}"
    return Signal(sign=Sign.EMPTY, evidence=evidence)


def same_ids(store: Store, before: str, after: str, releases: Releases) -> list[str]:
    """Where upstream's own diff has the patch's hunks, by patch-id; one place or '' a hunk.

    patch-id doesn't look at white space, nor at where a hunk is: the lines must be the same and
    stand where the patch's do, and each hunk of upstream's counts once.
    """
    ours = own_hunks(store, before, after)
    paths = sorted({hunk.path for hunk in ours})
    if not paths:
        return []
    theirs = changed_hunks(store, releases.old, releases.new, paths)
    shifted = changed_hunks(store, releases.old, before, paths)
    ids, known = patch_ids(store, ours), patch_ids(store, theirs)
    places = []
    for number, hunk in enumerate(ours):
        here = unshifted(hunk, shifted)
        same = next(
            (
                n
                for n, ident in sorted(known.items())
                if ident == ids.get(number)
                and theirs[n].path == hunk.path
                and theirs[n].lines == hunk.lines
                and distance(here, theirs[n]) <= NEAR_LINES
            ),
            None,
        )
        places.append("" if same is None else f"{hunk.path}:{theirs[same].new_start}")
        if same is not None:
            del known[same]
    return places


def changed_hunks(store: Store, old: str, new: str, paths: list[str]) -> tuple[Hunk, ...]:
    return read_hunks(store.git("diff", "--unified=0", "--no-renames", old, new, "--", *paths))


def unshifted(hunk: Hunk, before: tuple[Hunk, ...]) -> Hunk:
    """The hunk with its lines counted as in the release, without the patches before it."""
    shift = sum(
        one.new_count - one.old_count
        for one in before
        if one.path == hunk.path and one.new_start < hunk.old_start
    )
    return replace(hunk, old_start=hunk.old_start - shift)


def only_lines(store: Store, before: str, after: str) -> bool:
    """Whether hunks are all of a change: no mode, no binary file, no empty one."""
    diff = store.git("diff", "--no-renames", before, after)
    paths = {change.path for change in store.changes(before, after)}
    shown = {hunk.path for hunk in read_hunks(diff)}
    return paths == shown and not re.search(rb"^old mode ", diff, re.MULTILINE)


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
    said = store.git("patch-id", "--stable", stdin=b"".join(parts))
    with run.understood("git patch-id"):
        answer = said.decode("ascii").split()
        pairs = zip(answer[::2], answer[1::2], strict=True)
        return {int(commit, 16) - 1: ident for ident, commit in pairs}


def same_commit(store: Store, patch: Patch, releases: Releases) -> Signal | None:
    """A commit between the two releases, where they have a history, has the patch's patch-id."""
    if not releases.history:
        return None
    span = f"{releases.old}..{releases.new}"
    ours = store.git("patch-id", "--stable", stdin=patch.content).decode().split()[:1]
    known = commit_ids(store, span, patch.touched)
    same = next((commit for commit, ident in known if [ident] == ours), None)
    if same is None or reverted(store, span, patch, same):
        return None
    subject = store.text("log", "-1", "--format=%h %s", same)
    return Signal(sign=Sign.PATCH_ID, evidence=f"commit {subject} is the same change")


def commit_ids(
    store: Store, span: str, paths: tuple[str, ...], *options: str
) -> list[tuple[str, str]]:
    """The commits of `span` with the patch-id of what each does to the paths, newest first."""
    log = store.git("log", "--format=commit %H", "-p", "--full-index", *options, span, "--", *paths)
    said = store.git("patch-id", "--stable", stdin=log)
    with run.understood("git patch-id"):
        rows = said.decode("ascii").split()
        return list(zip(rows[1::2], rows[::2], strict=True))


def reverted(store: Store, span: str, patch: Patch, commit: str) -> bool:
    """Whether a later commit says that it takes the commit back, or does just that."""
    later = f"{commit}..{span.partition('..')[2]}"
    if store.text("log", "--format=%h", "-F", f"--grep=This reverts commit {commit}", later):
        return True
    ours = store.git("patch-id", "--stable", stdin=patch.content).decode().split()[:1]
    return any([ident] == ours for _, ident in commit_ids(store, later, patch.touched, "-R"))


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
