# SPDX-License-Identifier: Apache-2.0
"""The end of a rebase: check what it will write, write it, and say what else there is to know."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from recipe.bases.releases import Base
from recipe.bases.sources import store_of
from recipe.follow.moved import moved
from recipe.follow.outcome import ALIKE
from recipe.follow.rebase import rewrite
from recipe.follow.rebase import state as rebase_state
from recipe.follow.rebase.advance import Rebase, kept_ref
from recipe.follow.rebase.state import State
from recipe.ground import scratch
from recipe.ground.errors import ApplyError, ConfigError
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.series.lint import due
from recipe.series.overlay import read_overlay
from recipe.series.tree import lay


def finish(rebase: Rebase, state: State) -> dict[str, Any]:
    with scratch.folder(rebase.project.cache, "rebase") as copy:
        made, after = checked(rebase, state, copy)
        notes = [*lost_elsewhere(rebase, after), *overlay_notes(rebase, state)]
        notes += [
            f"{patch.path} is due to be dropped" for patch in due(after.patches, rebase.bases)
        ]
    notes += [*alike_notes(rebase, state), *pin_notes(rebase)]
    rewrite.put_in_place(rebase.project, state, made)
    return finished(rebase.project, state, list(made.files), notes, rebase)


def checked(rebase: Rebase, state: State, copy: Path) -> tuple[rewrite.Rewritten, Rebase]:
    """What is to be written, and the series as it will be.

    A range goes on to later releases, unless something that was in order on one would not be.
    """
    made = rewrite.rewrite(rebase, state)
    try:
        after = rewrite.check_written(rebase, state, made, copy / "wide")
        in_order = not lost_elsewhere(rebase, after)
    except ConfigError:
        in_order = False
    if not in_order:
        made = rewrite.rewrite(rebase, state, narrow=True)
        after = rewrite.check_written(rebase, state, made, copy / "narrow")
    formed = rewrite.in_form(rebase, after, made)
    if formed != made:
        after = rewrite.check_written(rebase, state, formed, copy / "formed")
    return formed, after


def lost_elsewhere(rebase: Rebase, after: Rebase) -> list[str]:
    """Releases on which a topic was in order and wouldn't be any more."""
    if after.patches == rebase.patches:
        return []
    return [
        f"{base.tag}: {topic.name} isn't in order there any more"
        for base in rebase.bases.releases
        if base.tag != rebase.onto.tag
        for topic in rebase.column(base).topics
        if topic.name in applying(rebase, base) - applying(after, base)
        or topic.name in settled(rebase, base) - settled(after, base)
    ]


def applying(rebase: Rebase, base: Base) -> set[str]:
    column = rebase.column(base)
    return {t.name for t in column.topics if t.patch is not None and t.patch.path in column.placed}


def settled(rebase: Rebase, base: Base) -> set[str]:
    """The topics that no patch is for: upstream has them, or they aren't needed."""
    return {topic.name for topic in rebase.column(base).topics if topic.patch is None}


def overlay_notes(rebase: Rebase, state: State) -> list[str]:
    """Overlay files that upstream has now, too."""
    files = read_overlay(rebase.project, state.upstream)
    try:
        with rebase.store.index(rebase.release) as index:
            lay(rebase.store, index, rebase.release, files)
    except ApplyError as error:
        return [error.what]
    return []


def alike_notes(rebase: Rebase, state: State) -> list[str]:
    """Patches that went on although upstream may have the same thing in its own words."""
    version = rebase.onto.version
    return [
        f"patches/{step.patch}: has upstream taken it? {line.removeprefix(ALIKE + ': ')} is like "
        f"its own. If so: Applied-Upstream: {version}, and end its Bases there"
        for step in state.steps
        if step.commit
        for line in [e for e in step.evidence if e.startswith(ALIKE)][:1]
    ]


def pin_notes(rebase: Rebase) -> list[str]:
    patches = [p for p in rebase.patches if p.bases.contains(rebase.origin.version)]
    span = [
        base
        for base in rebase.bases.releases
        if rebase.origin.version <= base.version <= rebase.onto.version
    ]
    return [
        f"{move.base}: {move.pin} moved from {move.old} to {move.new}"
        + (f" (touched by {', '.join(move.patches)})" if move.patches else "")
        for old, new in pairwise(span)
        for move in moved(old, new, patches)
    ]


def finished(
    project: Project,
    state: State,
    names: list[str],
    notes: list[str],
    rebase: Rebase | None = None,
) -> dict[str, Any]:
    # Said before what was remembered is cleared away: a git that dies at that loses no patch.
    say("wrote " + ", ".join(names) if names else "nothing to write: the series is as it should be")
    for note in notes:
        say(f"  {note}")
    forget_rebase(project, rebase)
    say(f"  next: python build.py --base {state.onto}")
    return {**document(state, "done"), "written": names, "notes": notes}


def forget_rebase(project: Project, rebase: Rebase | None = None) -> None:
    rebase_state.discard(project)
    store = rebase.store if rebase else store_of(project)
    store.git("update-ref", "-d", kept_ref(project))


def document(state: State, word: str) -> dict[str, Any]:
    return {
        "onto": state.onto,
        "from": state.origin,
        "state": word,
        "patches": [{**asdict(step), "evidence": list(step.evidence)} for step in state.steps],
    }
