# SPDX-License-Identifier: Apache-2.0
"""Topic by release: what every topic is on every pinned release, from the real trees.

A header says what a topic is on a release; the tree says whether that is so. Everything happens on
temporary indexes. The answer is stored by a hash of all that it depends on, so that asking again
costs nothing and a change of a patch or a pin makes it be computed anew.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from recipe.bases.releases import Base, Bases
from recipe.follow.footprint import Footprint, footprint, missing
from recipe.follow.outcome import Case, Outcome, apply_on, follow
from recipe.follow.upstreamed import Releases, TakenOff, reversible
from recipe.objects.git import Store
from recipe.objects.hunks import read_hunks
from recipe.series.patch import Patch
from recipe.series.topics import State, Topic, by_topic, survey


class CellState(StrEnum):
    """What a topic is on a release."""

    APPLIES = "applies"
    UPSTREAMED = "upstreamed"
    UPSTREAMED_CHANGED = "upstreamed-changed"
    NOT_NEEDED = "not-needed"
    NEEDS_REBASE = "needs-rebase"
    CONFLICT = "conflict"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One topic on one release. place: path:line of the first conflict; evidence: what was seen."""

    base: str
    topic: str
    patch: str | None
    state: CellState
    evidence: tuple[str, ...]
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Cells by release, oldest first, and within one in the order of the series."""

    bases: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.topic for cell in self.cells))

    def row(self, topic: str) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.topic == topic)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A patch on a release where it applies exactly: the stack (trees) without and with it."""

    tag: str
    before: str
    after: str
    places: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One release: its topics as the headers say, and the patches that apply exactly, by path."""

    base: Base
    topics: tuple[Topic, ...]
    placed: dict[str, Placed]

    @property
    def claimed(self) -> tuple[Patch, ...]:
        """The patches that have to be judged on this release."""
        return tuple(topic.patch for topic in self.topics if topic.patch is not None)


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Every release of the matrix: its commit in the store by tag, and what applies on it.

    brought: for a topic that upstream has, the first release with it and the lines it came by.
    """

    store: Store
    commits: dict[str, str]
    columns: tuple[Column, ...]
    brought: dict[str, tuple[str, Footprint]]

    def home(self, patch: Patch, base: Base) -> Placed | None:
        """Where the patch applies exactly: the nearest release before `base`, else after it."""
        found = [c for c in self.columns if patch.path in c.placed and c.base.tag != base.tag]
        older = [column for column in found if column.base.version < base.version]
        nearest = older[-1] if older else found[0] if found else None
        return nearest.placed[patch.path] if nearest else None


def compute(
    store: Store, bases: Bases, patches: tuple[Patch, ...], commits: dict[str, str]
) -> Matrix:
    """The whole matrix. commits: each pinned release's commit in the store, by tag."""
    with ThreadPoolExecutor() as pool:
        placed = pool.map(lambda b: place(store, b, commits[b.tag], patches), bases.releases)
        columns = tuple(placed)
        found = {name: brought(store, commits, columns, name) for name in by_topic(patches)}
        trees = Trees(
            store=store,
            commits=commits,
            columns=columns,
            brought={name: lines for name, lines in found.items() if lines is not None},
        )
        cells = pool.map(lambda column: judge(trees, column), columns)
        return Matrix(
            bases=tuple(base.tag for base in bases.releases),
            cells=tuple(cell for column in cells for cell in column),
        )


def place(store: Store, base: Base, commit: str, patches: tuple[Patch, ...]) -> Column:
    """Apply what the headers claim for a release, as a build does, up to what doesn't apply."""
    topics = survey(patches, base)
    placed: dict[str, Placed] = {}
    stack = store.tree_of(commit)
    with store.index(commit) as index:
        for topic in topics:
            if topic.patch is None or topic.state == State.UNRESOLVED:
                continue
            exact = apply_on(store, topic.patch, stack, index)
            if isinstance(exact, str):
                break
            tree, places = exact
            placed[topic.patch.path] = Placed(
                tag=base.tag, before=stack, after=tree, places=tuple(places)
            )
            stack = tree
    return Column(base=base, topics=topics, placed=placed)


def judge(trees: Trees, column: Column) -> tuple[Cell, ...]:
    """One release's cells: a patch that doesn't apply exactly is followed from where it does."""
    pending = [patch for patch in column.claimed if patch.path not in column.placed]
    release = trees.commits[column.base.tag]
    reverse = reversible(trees.store, release, tuple(pending)) if pending else {}
    stack = trees.store.tree_of(release)
    cells = []
    for topic in column.topics:
        placed = topic.patch and column.placed.get(topic.patch.path)
        if topic.patch is None:
            cells.append(settled(trees, column.base, topic))
        elif placed:
            cells.append(cell(column.base, topic, CellState.APPLIES, placed.places))
            stack = placed.after
        else:
            found = reverse.get(topic.patch.path)
            made, stack = unsettled(trees, column.base, topic, topic.patch, stack, found)
            cells.append(made)
    return tuple(cells)


def unsettled(
    trees: Trees, base: Base, topic: Topic, patch: Patch, stack: str, reverse: TakenOff | None
) -> tuple[Cell, str]:
    """A patch that doesn't apply as the headers say: its cell, and the stack for the next one."""
    home = trees.home(patch, base)
    why = (topic.why,) if topic.state == State.UNRESOLVED else ()
    if home is None:
        evidence = (*why, "it applies exactly on no pinned release")
        return cell(base, topic, CellState.CONFLICT, evidence, place=first_place(patch)), stack
    releases = Releases(
        old=trees.commits[home.tag], old_tag=home.tag, new=trees.commits[base.tag], new_tag=base.tag
    )
    found = follow(
        Case(
            store=trees.store,
            patch=patch,
            before=home.before,
            after=home.after,
            stack=stack,
            releases=releases,
            reverse=reverse,
        )
    )
    if found.outcome == Outcome.CONFLICT:
        first = found.conflicts[0]
        spot = f"{first.path}:{first.line}" if first.line else first.path
        return cell(base, topic, CellState.CONFLICT, (*why, *found.evidence), place=spot), stack
    words = f"{found.outcome}, from {home.tag}"
    evidence = (*why, words, *found.evidence)
    return cell(base, topic, CellState.NEEDS_REBASE, evidence), found.tree


def first_place(patch: Patch) -> str:
    hunks = read_hunks(patch.content)
    return f"{hunks[0].path}:{hunks[0].old_start}" if hunks else patch.touched[0]


def settled(trees: Trees, base: Base, topic: Topic) -> Cell:
    """A topic that no patch is claimed for: upstream has it, or it isn't needed."""
    if topic.state == State.NOT_NEEDED:
        return cell(base, topic, CellState.NOT_NEEDED, (topic.why,))
    if topic.name not in trees.brought:
        evidence = (topic.why, "upstream's own lines are elsewhere, so none is watched")
        return cell(base, topic, CellState.UPSTREAMED, evidence)
    first, lines = trees.brought[topic.name]
    gone = missing(trees.store, lines, trees.commits[base.tag])
    if gone:
        return cell(base, topic, CellState.UPSTREAMED_CHANGED, (topic.why, *gone))
    seen = (f"it still has what {first} brought:", *map(str, lines.lines))
    return cell(base, topic, CellState.UPSTREAMED, (topic.why, *seen))


def brought(
    store: Store, commits: dict[str, str], columns: tuple[Column, ...], name: str
) -> tuple[str, Footprint] | None:
    """The first release whose upstream has the topic, and its lines where our patch was last."""
    last: Placed | None = None
    for column in columns:
        topic = next(topic for topic in column.topics if topic.name == name)
        if topic.state == State.UPSTREAMED:
            if last is None:
                return None
            found = footprint(store, last.before, last.after, commits[column.base.tag])
            return (column.base.tag, found) if found.lines else None
        if topic.patch is not None:
            last = column.placed.get(topic.patch.path, last)
    return None


def cell(
    base: Base, topic: Topic, state: CellState, evidence: tuple[str, ...], *, place: str = ""
) -> Cell:
    return Cell(
        base=base.tag,
        topic=topic.name,
        patch=topic.patch.path if topic.patch else None,
        state=state,
        evidence=evidence,
        place=place,
    )
