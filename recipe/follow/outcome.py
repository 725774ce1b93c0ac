# SPDX-License-Identifier: Apache-2.0
"""What becomes of one patch on another tree: the answer that matrix and rebase share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from recipe.follow.nearby import near_lines
from recipe.follow.prose import prose_at
from recipe.follow.upstreamed import (
    Releases,
    Signal,
    TakenOff,
    all_in,
    empty,
    named,
    only_lines,
    own_hunks,
    same_commit,
    same_ids,
    taken_off,
)
from recipe.objects.git import DoesNotApply, Store
from recipe.objects.hunks import Hunk, change_of, read_hunks
from recipe.objects.threeway import Conflict, Merge, merge
from recipe.series.patch import Patch

# How the evidence begins where upstream may have done the same thing in its own words.
ALIKE = "look: upstream added a line like the patch's own"
# A shorter line could stand anywhere.
TELLING_LETTERS = 20


class Outcome(StrEnum):
    """What a patch is on a tree it wasn't written for."""

    UNCHANGED = "unchanged"
    MOVED = "moved"
    MERGED = "merged"
    RENAMED = "renamed"
    UPSTREAMED = "upstreamed"
    CONFLICT = "conflict"


@dataclass(frozen=True, kw_only=True)
class Followed:
    """One patch on the stack of a release.

    tree: the stack with the patch on it (with markers for a conflict; the stack itself where
    upstream has it). hunks: how many the patch has; taken: how many of them upstream's diff has,
    every change of the hunk by patch-id. kept: its added and removed lines are those of the file,
    so nobody needs to look again. renames: (from, to) of upstream files. evidence: what was seen,
    for a person.
    """

    patch: Patch
    outcome: Outcome
    tree: str
    hunks: int
    kept: bool = True
    taken: int = 0
    conflicts: tuple[Conflict, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    signals: tuple[Signal, ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A patch and the tree it is brought to.

    before, after: commits of the stack without and with the patch, where it is known to apply.
    stack: commit of the new release with the patches before this one. reverse: that the patch can
    be taken off the new release, if it can (`upstreamed.reversible`).
    """

    store: Store
    patch: Patch
    before: str
    after: str
    stack: str
    releases: Releases
    reverse: TakenOff | None


def apply_exactly(store: Store, patch: Patch, stack: str) -> tuple[str, list[str]] | str:
    """The tree with the patch on it and each hunk's place, or git's reason why it can't be."""
    with store.index(stack) as index:
        return apply_on(store, patch, stack, index)


def apply_on(store: Store, patch: Patch, stack: str, index: Path) -> tuple[str, list[str]] | str:
    """As `apply_exactly`, on an index that holds the stack, and the patch afterwards."""
    try:
        store.apply(patch.content, index)
    except DoesNotApply as no:
        return "; ".join(no.lines)
    tree = store.git("write-tree", index=index).decode().strip()
    return tree, places(store, patch, stack, tree)


def places(store: Store, patch: Patch, stack: str, tree: str) -> list[str]:
    """path:line of each hunk, with how far it moved since the patch was written."""
    diff = store.git("diff", "--no-renames", stack, tree)
    found = read_hunks(diff)
    written = read_hunks(patch.content)
    if [h.changed for h in found] != [h.changed for h in written]:
        return [f"{hunk.path}:{hunk.old_start}" for hunk in found]
    moved = [there.old_start - here.old_start for there, here in zip(found, written, strict=True)]
    return [
        f"{hunk.path}:{hunk.old_start}" + (f" ({by:+d} lines)" if by else "")
        for hunk, by in zip(found, moved, strict=True)
    ]


def follow(case: Case) -> Followed:
    """What the patch is on the stack: exactly, taken by upstream, merged, or in conflict."""
    # As it is where it is known to apply: what upstream has of it is counted in the same hunks.
    hunks = len(change_hunks(case))
    merged = merge(case.store, before=case.before, after=case.after, stack=case.stack)
    exact = apply_exactly(case.store, case.patch, case.stack)
    if isinstance(exact, str):
        return not_exactly(case, hunks, exact, merged)
    tree, where = exact
    if merged.conflicts or merged.tree != tree:
        # git puts a hunk wherever its lines are; where they are twice, that may be the wrong place.
        return not_exactly(case, hunks, f"it would go on in another place: {where}", merged)
    return Followed(
        patch=case.patch,
        outcome=Outcome.MOVED if any("lines)" in place for place in where) else Outcome.UNCHANGED,
        tree=tree,
        hunks=hunks,
        evidence=(*where, *look(case)),
    )


def change_hunks(case: Case) -> tuple[Hunk, ...]:
    return read_hunks(case.store.git("diff", "--no-renames", case.before, case.after))


def whole_hunks(case: Case, places_upstream: list[str]) -> int:
    """How many hunks of the patch upstream has all changes of. places_upstream: one a change."""
    ours = own_hunks(case.store, case.before, case.after)
    found = list(zip(ours, places_upstream, strict=True))

    def within(hunk: Hunk) -> list[str]:
        start, end = hunk.new_start, hunk.new_start + hunk.new_count
        return [p for o, p in found if o.path == hunk.path and start <= o.new_start <= end]

    return sum(bool(places) and all(places) for places in map(within, change_hunks(case)))


def not_exactly(case: Case, hunks: int, why: str, merged: Merge) -> Followed:
    store, releases = case.store, case.releases
    span = (case.before, case.after)
    places_upstream = same_ids(store, *span, releases)
    proofs = (
        taken_off(store, case.patch, *span, case.reverse),
        empty(store, *span, case.stack, releases),
        all_in(places_upstream, releases) if only_lines(store, *span) else None,
        same_commit(store, case.patch, releases),
    )
    seen = tuple(s for s in (*proofs, named(store, case.patch, releases)) if s is not None)
    here = store.tree_of(case.stack)
    # Whatever speaks for it, a patch that still has something to change there isn't dropped.
    left = not merged.conflicts and merged.tree != here
    if any(proofs) and not left:
        return Followed(
            patch=case.patch,
            outcome=Outcome.UPSTREAMED,
            tree=here,
            hunks=hunks,
            taken=hunks,
            signals=seen,
            evidence=tuple(map(str, seen)),
        )
    there = [p for p in places_upstream if p]
    partly = [f"upstream has {p} already (patch-id)" for p in there]
    if there:
        partly.insert(0, f"{len(there)} of {len(places_upstream)} changes are upstream's")
    found = Followed(
        patch=case.patch,
        outcome=Outcome.MERGED,
        tree=merged.tree,
        hunks=hunks,
        kept=not any(proofs),
        taken=whole_hunks(case, places_upstream),
        signals=seen,
        evidence=(*partly, *map(str, seen), f"not exactly: {why}"),
    )
    return conflicting(case, found, merged) if merged.conflicts else rewritten(case, found)


def conflicting(case: Case, found: Followed, merged: Merge) -> Followed:
    return replace(
        found,
        outcome=Outcome.CONFLICT,
        kept=False,
        conflicts=merged.conflicts,
        evidence=(*map(str, merged.conflicts), *found.evidence, *lost_lines(case, merged)),
    )


def rewritten(case: Case, found: Followed) -> Followed:
    """A clean merge: the patch must be written differently for this release."""
    store = case.store
    renames = followed_renames(case, found.tree)
    options = ("--full-index", "--binary", "--find-renames")
    change = change_of(store.git("diff", *options, case.stack, found.tree))
    return replace(
        found,
        outcome=Outcome.RENAMED if renames else Outcome.MERGED,
        kept=found.kept
        and change == change_of(store.git("diff", *options, case.before, case.after)),
        renames=renames,
        evidence=(
            *(f"{old} is {new} upstream" for old, new in renames),
            *found.evidence,
            *look(case),
        ),
    )


def followed_renames(case: Case, tree: str) -> tuple[tuple[str, str], ...]:
    """Upstream files that have another name now and that the merge followed."""
    store, old, new = case.store, case.releases.old, case.releases.new
    gone = [path for path in case.patch.touched if store.has_path(old, path)]
    gone = [path for path in gone if not store.has_path(new, path)]
    touched = {change.path for change in store.changes(case.stack, tree)} if gone else set()
    found = ((path, store.renamed(old, new, path)) for path in gone)
    return tuple((path, name) for path, name in found if name is not None and name in touched)


def lost_lines(case: Case, merged: Merge) -> tuple[str, ...]:
    """For a file that upstream no longer has: where the lines are that the patch stands on."""
    lost = {conflict.path for conflict in merged.conflicts if conflict.line == 0}
    found = []
    for hunk in read_hunks(case.patch.content):
        old = [line[1:].strip() for line in hunk.lines if line[:1] in (b" ", b"-")]
        telling = max(old, key=len, default=b"")
        if hunk.path not in lost or len(telling) < TELLING_LETTERS:
            continue
        for place in case.store.find_line(case.releases.new, telling)[:2]:
            text = telling.decode("utf-8", "replace")
            found.append(f"{case.releases.new_tag} has {text!r} in {place}")
    return tuple(dict.fromkeys(found))


def look(case: Case) -> tuple[str, ...]:
    """Upstream's additions next to the patch's own; first those that are like them."""
    store = case.store
    ours = own_hunks(store, case.before, case.after)
    paths = sorted({hunk.path for hunk in ours})
    if not paths:
        return ()
    span = (case.releases.old, case.releases.new)
    theirs = read_hunks(store.git("diff", "--unified=0", "--no-renames", *span, "--", *paths))
    prose = {path: prose_at(store, case.releases.new, path) for path in paths}
    own_prose = {path: prose_at(store, case.after, path) for path in paths}
    near = near_lines(ours, theirs, prose=prose, own_prose=own_prose)
    alike = tuple(f"{ALIKE}: {line}" for line in near if line.alike)
    if alike:
        return alike
    return tuple(
        f"look: upstream changed {line.path}:{line.number}, next to it"
        for line in [one for one in near if one.number not in prose[one.path]][:1]
    )
