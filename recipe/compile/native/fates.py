# SPDX-License-Identifier: Apache-2.0
"""The one pass that settles what becomes of every component, for a plan and for a build alike.

A plan fetches and makes nothing, so some of its answers stay open: a source that a build would
fetch, an environment that isn't there yet. A build leaves nothing open.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from recipe.bases.sources import store_of
from recipe.compile.deepgemm import COMPONENT, DeepGemm
from recipe.compile.inner.folders import scripted_in
from recipe.compile.native.build import stale
from recipe.compile.native.choice import Kind
from recipe.compile.native.inner_stale import inner_reasons
from recipe.compile.native.kept import Setting, evidence, would_lose
from recipe.compile.native.settle import Evidence, Settled, Verdicts, possible, settle, verdicts_of
from recipe.compile.native.wanted import Wanted
from recipe.compile.toolchain.cross import cross_env
from recipe.compile.toolchain.environment import NativeEnv, native_env
from recipe.compile.toolchain.host_compiler import check_gcc
from recipe.compile.toolchain.python import find_python, this_python
from recipe.compile.toolchain.target import reachable, target_of, this_machine
from recipe.gpu.code import published_code
from recipe.ground.errors import MachineError, UsageError
from recipe.ground.log import Log
from recipe.ground.project import Project
from recipe.wheel.write import names_in


def settled(project: Project, wanted: Wanted, wheel: Path | None, log: Log | None) -> Settled:
    """Every component with its action and why.

    wheel: upstream's; None where a plan finds none in the cache. log: a build's; without one
    nothing is fetched, made or compiled. UsageError (2) and MachineError (8) say what stands
    against compiling what was asked for.
    """
    choice = wanted.choice
    if choice.kind in (Kind.NAMED, Kind.ALL):
        check_crossing(project, wanted)
    asked = choice.kind == Kind.AUTO or (choice.kind == Kind.NAMED and log is not None)
    if not asked or not reachable(wanted.machine):
        return settle(choice, wanted.declared, Evidence())
    setting = setting_of(project, wanted, wheel)
    if choice.kind == Kind.AUTO:
        found = weighed(project, wanted, setting, log)
    else:
        found = measured(project, wanted, setting, log, Evidence())
    made = settle(choice, wanted.declared, found)
    lost = {name: would_lose(name, setting) for name in made.rebuild}
    return replace(made, lost={name: gone for name, gone in lost.items() if gone})


def setting_of(project: Project, wanted: Wanted, wheel: Path | None) -> Setting:
    verdicts: Verdicts = {}
    if wheel is not None and wanted.choice.kind == Kind.AUTO:
        verdicts = verdicts_of(published_code(wheel, wanted.published.sha256, project.cache))
    return Setting(
        published=tuple(names_in(wheel)) if wheel else None,
        verdicts=verdicts,
        inner=tuple(inner_reasons(project, wanted.job)),
        python=wanted.python or this_python(),
        crossing="" if wanted.machine == this_machine() else wanted.machine,
        useless=useless(wanted.deepgemm, wanted.job.asked),
    )


def weighed(project: Project, wanted: Wanted, setting: Setting, log: Log | None) -> Evidence:
    """What makes each component stale and what keeps it so; CMake is asked only if it matters."""
    job = wanted.job
    maybe = possible(wanted.declared, setting.verdicts, job.asked, setting.inner)
    ahead = evidence(project, job, setting, maybe, fetch=log is not None)
    wheel_is_here = setting.published is not None
    if {reason.component for reason in maybe} - {*ahead.kept, *ahead.unfetched}:
        check_crossing(project, wanted)
    elif not ahead.unfetched and (maybe or wheel_is_here):
        # What of upstream's wheel serves no device isn't known without it.
        return replace(ahead, sure=wheel_is_here)
    return measured(project, wanted, setting, log, ahead)


def measured(
    project: Project, wanted: Wanted, setting: Setting, log: Log | None, ahead: Evidence
) -> Evidence:
    """CMake's answers; `ahead` of them is all that a plan has where their environment isn't."""
    job = wanted.job
    stage = log.stage("configure", "Asking upstream's CMake what is stale") if log else None
    with stage or nullcontext():
        try:
            env = env_for(project, wanted, offline=log is None or job.offline)
        except MachineError:
            if log is not None:
                raise
            return replace(ahead, sure=False)
        reasons = stale(project, env, job, setting.verdicts, setting.inner)
        if wanted.choice.kind == Kind.NAMED:
            return Evidence(reasons=reasons, env=env)
        found = evidence(project, job, setting, reasons, fetch=log is not None)
        return replace(found, env=env)


def useless(theirs: DeepGemm, asked: Iterable[str]) -> frozenset[str]:
    """DeepGEMM where the published one has no kernels for any asked device: all are 12.x."""
    ours = all(one.startswith("12.") for one in asked)
    return frozenset({COMPONENT}) if theirs.carried_sm12x is False and ours else frozenset()


def check_crossing(project: Project, wanted: Wanted) -> None:
    """Say what stands against compiling for another machine before anything is made or fetched."""
    target = target_of(wanted.machine)
    if target is None:
        return
    if wanted.choice.kind == Kind.ALL:
        raise UsageError(
            f"--native all runs upstream's whole build, for {this_machine()} on this machine",
            means=f"For {wanted.machine} this machine compiles extensions by name or where stale.",
            next=f"python build.py --platform {wanted.machine} --native auto ...",
        )
    by_script = scripted_in(store_of(project), wanted.job.applied.head)
    if impossible := [name for name in wanted.choice.names if name in by_script]:
        raise UsageError(
            f"{impossible[0]} of {wanted.job.base.tag} is compiled by a script of upstream's, "
            f"for {this_machine()} on this machine",
            means=f"No compiler for {wanted.machine} can be handed to it.",
            next=f"run the build on a machine of {wanted.machine}, or leave {impossible[0]} out of "
            "--native",
        )
    target.tool("g++")


def env_for(project: Project, wanted: Wanted, *, offline: bool) -> NativeEnv:
    """The build environment for the wheel's machine."""
    interpreter, version = find_python(wanted.job.base, wanted.python)
    target = target_of(wanted.machine)
    cmake = store_of(project).read(wanted.job.applied.head, "CMakeLists.txt").decode()
    check_gcc(cmake, wanted.job.base.tag, target.tool("g++") if target else None)
    if target is None:
        return native_env(project, wanted.job.base, interpreter, version, offline=offline)
    return cross_env(project, wanted.job.base, target, interpreter, version, offline=offline)
