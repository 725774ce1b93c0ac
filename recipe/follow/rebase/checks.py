# SPDX-License-Identifier: Apache-2.0
"""What is asked of a rebase that can't be done, said before anything is."""

from __future__ import annotations

import argparse

from recipe.follow.rebase import state as rebase_state
from recipe.follow.rebase.advance import Rebase
from recipe.follow.rebase.state import State
from recipe.follow.rebase.stop import CONTINUE
from recipe.ground import run
from recipe.ground.errors import SourceError, UsageError
from recipe.series.patch import Patch


def check_alone(options: argparse.Namespace) -> None:
    """A rebase goes on as it was begun."""
    given = {
        "--onto": options.onto,
        "--from": options.origin,
        "--exec": options.exec,
        "--source": options.source != "auto",
    }
    for name, value in given.items():
        if value:
            raise UsageError(
                f"{name} is for the beginning of a rebase; this one goes on as it was begun",
                next=f"{CONTINUE}, or: python build.py rebase --abort",
            )


def check_accepted(options: argparse.Namespace, patches: tuple[Patch, ...]) -> None:
    """Each --accept names a patch or a topic of the series; ``patches/`` before it is dropped."""
    known = {name for patch in patches for name in (patch.path, patch.topic)}
    options.accept = [name.removeprefix("patches/") for name in options.accept]
    for name in options.accept:
        if name not in known:
            raise UsageError(
                f"--accept {name}: series.txt has no such patch",
                next="name a patch as series.txt does (vllm/NAME.patch), or a topic",
            )


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
