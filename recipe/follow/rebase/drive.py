# SPDX-License-Identifier: Apache-2.0
"""A rebase from its beginning to its end: begin, go on, skip, give up; what a person is told."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

from recipe.bases import commit
from recipe.bases.address import git_address
from recipe.bases.releases import Base, Bases, load_bases
from recipe.bases.sources import store_of
from recipe.follow import remembered
from recipe.follow.rebase import rewrite
from recipe.follow.rebase import state as rebase_state
from recipe.follow.rebase.advance import Command, Rebase, advance, inputs, take
from recipe.follow.rebase.checks import Asked, accepted, check_alone, check_kept
from recipe.follow.rebase.finish import document, finish, finished, forget_rebase
from recipe.follow.rebase.opened import open_rebase
from recipe.follow.rebase.state import Decision, State, Step
from recipe.follow.rebase.stop import CONTINUE, leave, settle, tell
from recipe.ground import run
from recipe.ground.digest import sha256
from recipe.ground.errors import (
    ApplyError,
    ConfigError,
    RecipeError,
    TestsFailed,
    UsageError,
)
from recipe.ground.lock import hold
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.ground.secret import plain
from recipe.objects import repository


def run_rebase(asked: Asked, project: Project) -> dict[str, Any]:
    address = git_address(asked.source)
    if address is not None and asked.source != "git":
        asked = replace(asked, source=address)  # a path may be another folder's by --continue
    lock = project.cache / "locks" / f"rebase-{sha256(str(project.root).encode())[:16]}.lock"
    with hold(lock, "the rebase of this checkout"):
        if asked.abort:
            return abort(project)
        state = rebase_state.load(project)
        if asked.resume or asked.skip:
            again = plain(asked.source) == (state.source if state else None)
            check_alone(replace(asked, source="auto") if again else asked)
            if state is None:
                raise UsageError(
                    "no rebase is under way", next="python build.py rebase --onto v0.34.0"
                )
            return resume(asked, project, state)
        if state is not None:
            raise under_way(state)
        if asked.onto is None:
            raise UsageError("--onto is missing", next="python build.py rebase --onto v0.34.0")
        return begin(asked, asked.onto, project)


def begin(asked: Asked, name: str, project: Project) -> dict[str, Any]:
    bases = load_bases(project.bases_file)
    bases, onto = pinned(project, bases, name, offline=asked.offline)
    origin = bases.find(asked.origin) if asked.origin else before(bases, onto)
    if origin.tag == onto.tag:
        raise UsageError(f"--from and --onto are both {onto.tag}", next="name two releases")
    rebase = open_rebase(asked, project, bases, onto, origin)
    if not rebase.patches:
        raise UsageError(
            f"series.txt has no patch for {asked.upstream}",
            next="name the other one with --upstream, if its patches are meant",
        )
    accept = accepted(asked, rebase.patches)
    state = State(
        onto=onto.tag,
        origin=origin.tag,
        upstream=asked.upstream,
        source=plain(asked.source),
        command=asked.exec,
        accept=accept,
        inputs=inputs(project),
        history=rebase.history,
    )
    say(f"{origin.tag} to {onto.tag}: {len(rebase.topics)} topics; cache {project.cache}")
    rebase_state.save(project, state)
    try:
        return go_on(rebase, state)
    except RecipeError:
        forget_rebase(project)  # nobody has done any work in it yet
        raise


def resume(asked: Asked, project: Project, state: State) -> dict[str, Any]:
    if state.finishing:
        return finished(project, state, rewrite.go_on_writing(project), [])
    if inputs(project) != state.inputs:
        raise ConfigError(
            "the series was changed since this rebase began",
            means="What it decided no longer fits. Your resolutions so far are in .rebase/.",
            next="undo the change (git stash), or: python build.py rebase --abort",
        )
    bases = load_bases(project.bases_file)
    if plain(asked.source) != state.source:  # else it is named again, with what proves who asks
        asked = replace(asked, source=state.source)
    asked = replace(asked, upstream=state.upstream)
    onto, origin = bases.find(state.onto), bases.find(state.origin)
    rebase = open_rebase(asked, project, bases, onto, origin, state.history)
    accept = accepted(asked, rebase.patches)
    check_kept(rebase, state)
    state = replace(state, accept=(*state.accept, *accept))
    if state.stop is not None:
        step = settle(rebase, state.stop, skip=asked.skip, accept=state.accept)
        state = take(rebase, state, step, command_of(rebase, state))
        shutil.rmtree(rebase_state.work_tree(project), ignore_errors=True)
    elif asked.skip:
        raise UsageError("the rebase isn't stopped at a patch", next=CONTINUE)
    return go_on(rebase, state)


def go_on(rebase: Rebase, state: State) -> dict[str, Any]:
    state = advance(rebase, state, command_of(rebase, state))
    if state.stop is not None:
        leave(rebase, state.stop)
        text = tell(rebase, state.stop)
        return {
            **document(state, "stopped"),
            "stop": {
                "patch": state.stop.patch,
                "kind": state.stop.kind,
                "evidence": list(state.stop.evidence),
                "tree": str(rebase_state.work_tree(rebase.project)),
                "range_diff": text,
            },
            "exit_code": ApplyError.exit_code,
        }
    return finish(rebase, state)


def command_of(rebase: Rebase, state: State) -> Command:
    """Say what was decided, and run the user's command on the stack with the patch on it."""
    # A run that was killed may have left half a checkout there, or git's lock.
    shutil.rmtree(rebase_state.folder(rebase.project) / "exec", ignore_errors=True)

    def after_each(rebase: Rebase, step: Step) -> None:
        where = f" ({step.decision})" if step.decision != Decision.MACHINE else ""
        say(f"  {step.outcome:11} {step.patch or step.topic}{where}")
        for line in step.evidence:
            say(f"    {line}")
        if state.command is None or not step.commit:
            return
        folder = rebase_state.folder(rebase.project) / "exec"
        if not (folder / ".git").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            repository.check_out(rebase.store, folder, step.commit)
        repository.move_to(repository.WorkTree(root=folder), step.commit)
        env = {"SM12X_BASE": rebase.onto.tag, "SM12X_PATCH": step.patch}
        command = ["sh", "-c", state.command]
        status = run.check_alive(command, run.show(command, cwd=folder, env=env))
        if status != 0:
            raise rolled_back(rebase, state, step, status)

    return after_each


def rolled_back(rebase: Rebase, state: State, step: Step, status: int) -> RecipeError:
    if step.memory:
        # The command doesn't like this resolution: it mustn't come back by itself.
        remembered.forget(rebase.store, step.memory)
    forget_rebase(rebase.project)
    return TestsFailed(
        f"{state.command!r} ended with {status} after patches/{step.patch} on {rebase.onto.tag}",
        means="The rebase is rolled back: series and patches are as they were. Conflicts that were "
        "resolved before this patch are remembered.",
        next=f"python build.py rebase --onto {state.onto} --from {state.origin}   # without --exec",
    )


def abort(project: Project) -> dict[str, Any]:
    try:
        state = rebase_state.load(project)
    except ConfigError:
        state = None
    if state is not None and state.finishing:
        raise UsageError(
            "the rebase is decided and was being written when it was killed",
            means="Half of its files are in place.",
            next=f"{CONTINUE}, then undo it with git if you don't want it",
        )
    known = rebase_state.folder(project).exists()
    if state is not None:
        store = store_of(project)
        for step in state.steps:
            if step.memory and step.decision == Decision.HAND:
                remembered.forget(store, step.memory)
    forget_rebase(project)
    say(
        "the rebase is given up; series and patches are as they were"
        if known
        else "no rebase is under way"
    )
    return {"state": "aborted" if known else "none"}


def under_way(state: State) -> UsageError:
    if state.finishing:
        where = "being written"
    elif state.stop is not None:
        where = f"stopped at patches/{state.stop.patch}"
    else:
        where = f"interrupted after {len(state.steps)} topics"
    return UsageError(
        f"a rebase onto {state.onto} is under way, {where}",
        next=f"{CONTINUE}, or: python build.py rebase --abort",
    )


def pinned(project: Project, bases: Bases, text: str, *, offline: bool) -> tuple[Bases, Base]:
    """The release, pinned first if it isn't yet."""
    try:
        return bases, bases.find(text)
    except UsageError:
        if offline or not commit.version_of(text):
            raise
    say(f"{text} isn't pinned yet")
    bases = commit.add(project, commit.Wanted(names=[text]))
    return bases, bases.find(text)


def before(bases: Bases, onto: Base) -> Base:
    older = [base for base in bases.releases if base.version < onto.version]
    newer = [base for base in bases.releases if base.version > onto.version]
    if not older and not newer:
        raise UsageError(
            f"{onto.tag} is the only pinned release", next="python build.py bases add v0.34.0"
        )
    return older[-1] if older else newer[0]
