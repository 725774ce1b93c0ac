# SPDX-License-Identifier: Apache-2.0
"""What is asked of a rebase; what of it can't be done is said before anything is."""

from __future__ import annotations

from dataclasses import dataclass

from recipe.follow.rebase import state as rebase_state
from recipe.follow.rebase.advance import Rebase
from recipe.follow.rebase.state import State
from recipe.follow.rebase.stop import CONTINUE
from recipe.ground import run
from recipe.ground.errors import SourceError, UsageError
from recipe.series.patch import Patch


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of a rebase. resume: go on after a stop. skip: as what the stopped patch goes.

    accept: patches, by path or topic, whose merge is taken although it does something else.
    """

    onto: str | None
    origin: str | None
    exec: str | None
    accept: tuple[str, ...]
    resume: bool
    skip: str | None
    abort: bool
    source: str
    offline: bool
    upstream: str


def check_alone(asked: Asked) -> None:
    """A rebase goes on as it was begun."""
    given = {
        "--onto": asked.onto,
        "--from": asked.origin,
        "--exec": asked.exec,
        "--source": asked.source != "auto",
    }
    for name, value in given.items():
        if value:
            raise UsageError(
                f"{name} is for the beginning of a rebase; this one goes on as it was begun",
                next=f"{CONTINUE}, or: python build.py rebase --abort",
            )


def accepted(asked: Asked, patches: tuple[Patch, ...]) -> tuple[str, ...]:
    """What --accept names, patches or topics of the series; ``patches/`` before one is dropped."""
    known = {name for patch in patches for name in (patch.path, patch.topic)}
    names = tuple(name.removeprefix("patches/") for name in asked.accept)
    for name in names:
        if name not in known:
            raise UsageError(
                f"--accept {name}: series.txt has no such patch",
                next="name a patch as series.txt does (vllm/NAME.patch), or a topic",
            )
    return names


def check_kept(rebase: Rebase, state: State) -> None:
    """What was decided so far is commits of the store, which may have been emptied meanwhile."""
    wanted = [step.commit for step in state.steps if step.commit]
    if state.stop is not None:
        wanted += [state.stop.before, state.stop.after, state.stop.stack, state.stop.tree]
    try:
        for one in wanted:
            rebase.store.git("ls-tree", "-r", one)
    except run.CommandFailed:
        raise SourceError(
            f"the cache {rebase.project.cache} no longer holds what this rebase has decided",
            means="It was emptied, or it is another one. Files that you mended are still in "
            f"{rebase_state.work_tree(rebase.project)}.",
            next="copy those, then: python build.py rebase --abort, and start it again",
        ) from None
