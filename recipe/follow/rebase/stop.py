# SPDX-License-Identifier: Apache-2.0
"""Where a rebase stops: the work tree it leaves, and what a person makes of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from recipe.follow import remembered
from recipe.follow.rebase import state as rebase_state
from recipe.follow.rebase.advance import Rebase, decided_by_hand, left_out, patch_at
from recipe.follow.rebase.state import Decision, Step, Stop, StopKind
from recipe.ground import run, scratch
from recipe.ground.errors import ApplyError, MachineError
from recipe.ground.log import say
from recipe.objects import repository

CONTINUE = "python build.py rebase --continue"


def settle(rebase: Rebase, stop: Stop, *, skip: str | None, accept: Sequence[str]) -> Step:
    """What the person decided at the stop."""
    if skip:
        return left_out(stop, skip)
    folder = rebase_state.work_tree(rebase.project)
    if not (folder / ".git").exists():
        leave(rebase, stop)
    tree = taken_from(rebase, stop)
    if tree == rebase.store.tree_of(stop.stack):
        raise ApplyError(
            f"nothing is left of patches/{stop.patch} in {folder}",
            means="Then it doesn't go on: either upstream has it, or it isn't needed.",
            next="python build.py rebase --skip upstreamed, or --skip not-needed",
        )
    if stop.kind == StopKind.REVIEW and tree == stop.tree:
        if {stop.patch, stop.topic} & set(accept):
            return decided_by_hand(rebase, stop, tree, Decision.ACCEPTED)
        raise ApplyError(
            f"patches/{stop.patch} isn't accepted yet",
            means="Merged, it does something else than before; somebody has to look at it.",
            next=f"{CONTINUE} --accept {stop.patch}, or change the files in {folder} first",
        )
    remembered.remember(rebase.store, stop.memory, tree)
    return decided_by_hand(rebase, stop, tree, Decision.HAND)


def taken_from(rebase: Rebase, stop: Stop) -> str:
    """The tree in the work tree, if nothing in it is undecided."""
    folder = rebase_state.work_tree(rebase.project)
    work = repository.WorkTree(root=folder)
    try:
        return decided_tree(rebase, stop, work)
    except run.CommandFailed as error:
        raise MachineError(
            f"the work tree {folder} can't be read: {error.stderr.strip()}",
            means="Another git may be running in it, or one was killed and left its lock.",
            next=f"mend that (rm {folder}/.git/index.lock), then: {CONTINUE}",
        ) from None


def decided_tree(rebase: Rebase, stop: Stop, work: repository.WorkTree) -> str:
    folder = work.root
    unsaid = repository.undecided(work)
    if unsaid:
        raise ApplyError(
            f"undecided: {', '.join(unsaid)} (both sides changed it, or one deleted it, and there "
            "are no markers to say so)",
            next=f"git -C {folder} rm {unsaid[0]}   # or: add {unsaid[0]}",
        )
    new = repository.untracked(work)
    if new:
        raise ApplyError(
            f"new files that git doesn't know: {', '.join(new[:5])}",
            means="Whether they belong to the patch can't be seen.",
            next=f"git -C {folder} add {new[0]}   # or: rm {folder / new[0]}",
        )
    left = repository.marked(work, stop.paths)
    if left:
        raise ApplyError(
            f"there are conflict markers left: {', '.join(left)}",
            next=f"mend them in {folder}, then: {CONTINUE}",
        )
    return repository.take_tree(rebase.store, work)


def leave(rebase: Rebase, stop: Stop) -> None:
    """The work tree at the stop, made whole or not at all."""
    folder = rebase_state.work_tree(rebase.project)
    shutil.rmtree(folder, ignore_errors=True)
    patch = patch_at(rebase, stop)
    store = rebase.store
    base = store.commit(store.tree_of(stop.before), None, message="before")
    change = store.commit(store.tree_of(stop.after), base, message=patch.subject)
    with scratch.whole(folder, "--onto") as new:
        work = repository.check_out(store, new, stop.stack)
        if stop.kind == StopKind.CONFLICT:
            repository.leave_conflict(work, change)
        else:
            repository.leave_changes(work, stop.tree)


def tell(rebase: Rebase, stop: Stop) -> str:
    """Say where the rebase stopped and what to do; gives the range-diff."""
    folder = rebase_state.work_tree(rebase.project)
    say(f"  {stop.outcome:11} {stop.patch}: here a person is needed")
    for line in stop.evidence:
        say(f"    {line}")
    text = rebase.store.range_diff(stop.before, stop.after, stop.stack, stop.tree)
    if stop.kind == StopKind.REVIEW:
        say(text)
        say(f"Merged, it does something else than before (above). Look at it in {folder}, then:")
        say(f"  next: {CONTINUE} --accept {stop.patch}")
    else:
        say(f"The work tree {folder} is stopped at this patch. Mend it there, then:")
        say(f"  next: {CONTINUE}")
    say("  or leave the patch out: --skip upstreamed, --skip not-needed; give up: --abort")
    return text
