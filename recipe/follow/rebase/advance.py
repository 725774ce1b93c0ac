# SPDX-License-Identifier: Apache-2.0
"""Move the series to another release, patch by patch, and stop where a person is needed.

Nothing of the project is written before the last patch is decided (see rewrite.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from recipe.bases.releases import Base, Bases
from recipe.follow import remembered
from recipe.follow.matrix.table import Column, place
from recipe.follow.outcome import Case, Followed, Outcome, apply_exactly, follow
from recipe.follow.rebase import state as rebase_state
from recipe.follow.rebase.state import Decision, State, Step, Stop, StopKind
from recipe.follow.upstreamed import Releases, TakenOff, reversible
from recipe.ground.digest import sha256
from recipe.ground.errors import ConfigError
from recipe.ground.project import Project
from recipe.objects.git import Store
from recipe.series.patch import Patch
from recipe.series.topics import Topic, read_series, survey

Command = Callable[["Rebase", Step], None]


@dataclass(frozen=True, kw_only=True)
class Home:
    """Where a patch is known to apply: the release, and the stack before and after it."""

    base: Base
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Rebase:
    """The trees and the series of a rebase.

    source_of: a release's commit in the store. history: whether it has the commits from origin to
    onto, too.
    """

    project: Project
    bases: Bases
    store: Store
    onto: Base
    origin: Base
    upstream: str
    patches: tuple[Patch, ...]
    source_of: Callable[[Base], str]
    history: bool = False
    columns: dict[str, Column] = field(default_factory=dict)

    @cached_property
    def topics(self) -> tuple[Topic, ...]:
        return survey(self.patches, self.onto)

    @cached_property
    def release(self) -> str:
        return self.source_of(self.onto)

    @cached_property
    def reverse(self) -> dict[str, TakenOff]:
        """The patches that can be taken off the new release, stacked."""
        claimed = tuple(topic.patch for topic in self.topics if topic.patch is not None)
        return reversible(self.store, self.release, claimed)

    def column(self, base: Base) -> Column:
        if base.tag not in self.columns:
            self.columns[base.tag] = place(self.store, base, self.source_of(base), self.patches)
        return self.columns[base.tag]

    def home(self, patch: Patch) -> Home | None:
        """The release that the patch comes from: --from if it applies there, else the nearest."""
        others = [base for base in reversed(self.bases.releases) if base.tag != self.onto.tag]
        older = [base for base in others if base.version < self.onto.version]
        newer = [base for base in reversed(others) if base.version > self.onto.version]
        for base in (self.origin, *older, *newer):
            if not patch.bases.contains(base.version):
                continue
            placed = self.column(base).placed.get(patch.path)
            if placed is not None:
                return Home(base=base, before=placed.before, after=placed.after)
        return None


def inputs(project: Project) -> str:
    """A hash of what a rebase reads and will write: the series and every patch."""
    patches = sorted(project.patches.rglob("*.patch"))
    parts = [project.series_file.read_bytes(), *(path.read_bytes() for path in patches)]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def advance(rebase: Rebase, state: State, after_each: Command) -> State:
    """Decide topic after topic until a person is needed or all are; saved after each."""
    while len(state.steps) < len(rebase.topics):
        topic = rebase.topics[len(state.steps)]
        decided = decide(rebase, state, topic)
        if isinstance(decided, Stop):
            state = replace(state, stop=decided)
            rebase_state.save(rebase.project, state)
            return state
        state = take(rebase, state, decided, after_each)
    return state


def take(rebase: Rebase, state: State, step: Step, after_each: Command) -> State:
    """Add a decided step, once the user's command has passed on it."""
    after_each(rebase, step)
    state = replace(state, steps=(*state.steps, step), stop=None)
    # The store would be free to drop commits that no ref holds.
    rebase.store.set_ref(kept_ref(rebase.project), stack(rebase, state))
    rebase_state.save(rebase.project, state)
    return state


def stack(rebase: Rebase, state: State) -> str:
    """The commit of the last patch that went on, or the release."""
    return next((step.commit for step in reversed(state.steps) if step.commit), rebase.release)


def kept_ref(project: Project) -> str:
    return f"refs/sm12x/rebase/{sha256(str(project.root).encode())[:16]}"


def decide(rebase: Rebase, state: State, topic: Topic) -> Step | Stop:
    patch = topic.patch
    if patch is None:
        return Step(
            topic=topic.name,
            patch="",
            outcome=topic.state,
            decision=Decision.HEADER,
            evidence=(topic.why,),
        )
    home = rebase.home(patch)
    below = stack(rebase, state)
    if home is None:
        return at_home(rebase, patch, below)
    found = follow(
        Case(
            store=rebase.store,
            patch=patch,
            before=home.before,
            after=home.after,
            stack=below,
            releases=Releases(
                old=rebase.source_of(home.base),
                old_tag=home.base.tag,
                new=rebase.release,
                new_tag=rebase.onto.tag,
                history=rebase.history and home.base.tag == rebase.origin.tag,
            ),
            reverse=rebase.reverse.get(patch.path),
        )
    )
    if found.outcome == Outcome.UPSTREAMED:
        return step_of(found, Decision.MACHINE, "")
    if found.kept:
        return step_of(found, Decision.MACHINE, commit(rebase, patch, found.tree, below))
    memory = remembered.key(rebase.store, home.before, home.after, below)
    known = remembered.recall(rebase.store, memory)
    if known is not None:
        made = commit(rebase, patch, known, below)
        return replace(step_of(found, Decision.REMEMBERED, made), memory=memory)
    accepted = {patch.path, topic.name} & set(state.accept)
    nothing_left = found.tree == rebase.store.tree_of(below)
    if found.outcome != Outcome.CONFLICT and accepted and not nothing_left:
        return step_of(found, Decision.ACCEPTED, commit(rebase, patch, found.tree, below))
    return stop_of(found, home, below, memory)


def at_home(rebase: Rebase, patch: Patch, below: str) -> Step:
    """The step of a patch that is for this release alone, so that it must apply as it is."""
    exact = apply_exactly(rebase.store, patch, below)
    if isinstance(exact, str):
        raise ConfigError(
            f"patches/{patch.path} applies exactly on no pinned release; here: {exact}",
            means="There is no tree from which its change could be merged.",
            next="python build.py matrix   # shows where it fails",
        )
    tree, places = exact
    found = Followed(
        patch=patch,
        outcome=Outcome.UNCHANGED,
        tree=tree,
        hunks=len(places),
        evidence=tuple(places),
    )
    return step_of(found, Decision.MACHINE, commit(rebase, patch, tree, below))


def commit(rebase: Rebase, patch: Patch, tree: str, below: str) -> str:
    return rebase.store.commit(
        tree, below, message=patch.message, author=patch.author, date=patch.date
    )


def step_of(found: Followed, decision: Decision, made: str) -> Step:
    return Step(
        topic=found.patch.topic,
        patch=found.patch.path,
        outcome=found.outcome,
        decision=decision,
        commit=made,
        hunks=found.hunks,
        taken=found.taken,
        conflicts=len(found.conflicts),
        renames=found.renames,
        evidence=found.evidence,
    )


def stop_of(found: Followed, home: Home, below: str, memory: str) -> Stop:
    return Stop(
        topic=found.patch.topic,
        patch=found.patch.path,
        kind=StopKind.CONFLICT if found.conflicts else StopKind.REVIEW,
        outcome=found.outcome,
        before=home.before,
        after=home.after,
        stack=below,
        tree=found.tree,
        memory=memory,
        hunks=found.hunks,
        taken=found.taken,
        conflicts=len(found.conflicts),
        paths=tuple(dict.fromkeys(conflict.path for conflict in found.conflicts)),
        renames=found.renames,
        evidence=found.evidence,
    )


def decided_by_hand(rebase: Rebase, stop: Stop, tree: str, decision: Decision) -> Step:
    """The step of the patch that the rebase stopped at, with the tree that a person gives."""
    made = commit(rebase, patch_at(rebase, stop), tree, stop.stack)
    return replace(left_out(stop, stop.outcome), decision=decision, commit=made, memory=stop.memory)


def left_out(stop: Stop, outcome: str) -> Step:
    """The step of the patch that the rebase stopped at, where it doesn't go on."""
    return Step(
        topic=stop.topic,
        patch=stop.patch,
        outcome=outcome,
        decision=Decision.HAND,
        hunks=stop.hunks,
        taken=stop.taken,
        conflicts=stop.conflicts,
        renames=stop.renames,
        evidence=stop.evidence,
    )


def patch_at(rebase: Rebase, stop: Stop) -> Patch:
    return next(patch for patch in rebase.patches if patch.path == stop.patch)


def read(project: Project, upstream: str) -> tuple[Patch, ...]:
    return tuple(patch for patch in read_series(project) if patch.upstream == upstream)
