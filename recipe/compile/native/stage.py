# SPDX-License-Identifier: Apache-2.0
"""The native part of a plan and of a build: ask what is stale, and compile it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipe.bases.sources import store_of
from recipe.build.plan import Plan
from recipe.compile import deepgemm
from recipe.compile.inner.find import Series as InnerSeries
from recipe.compile.inner.folders import as_record, scripted_in
from recipe.compile.inner.given import Given
from recipe.compile.native.build import Job, Rebuilt, rebuild, stale
from recipe.compile.native.choice import Choice, Kind
from recipe.compile.native.inner_stale import inner_reasons
from recipe.compile.native.kept import Setting, forecast, kept, would_lose
from recipe.compile.native.settle import Settled, Verdicts, possible, settle, verdicts_of
from recipe.compile.native.whole import WholeBuild, whole
from recipe.compile.ninja import Compiled
from recipe.compile.toolchain.cross import cross_env
from recipe.compile.toolchain.environment import NativeEnv, native_env
from recipe.compile.toolchain.host_compiler import check_gcc
from recipe.compile.toolchain.python import find_python, this_python
from recipe.compile.toolchain.target import reachable, target_of, this_machine
from recipe.compile.whole import Whole
from recipe.gpu.code import published_code
from recipe.ground.errors import MachineError, UsageError
from recipe.ground.log import Log, say
from recipe.ground.project import Project
from recipe.wheel.components import Action
from recipe.wheel.write import names_in


@dataclass(frozen=True, kw_only=True)
class NativeOptions:
    """What the command line asks of a compile. python: 3.N, None for this one."""

    choice: Choice
    given: Given = field(default_factory=Given)
    series: Mapping[str, InnerSeries] = field(default_factory=dict)
    jobs: int | None = None
    cache: str = "auto"
    python: str | None = None
    offline: bool = False


@dataclass(frozen=True, kw_only=True)
class Native:
    """What became of the components; all others are None where nothing was compiled.

    whole: upstream's own build of everything, in the place of single components.
    """

    settled: Settled
    rebuilt: Rebuilt | None = None
    whole: WholeBuild | None = None
    env: NativeEnv | None = None

    @property
    def binaries(self) -> dict[str, Path]:
        """The wheel's new members, as they lie on disk."""
        found: dict[str, Path] = {}
        for files in self.rebuilt.files.values() if self.rebuilt else ():
            found.update(files)
        return found


def job_of(plan: Plan, options: NativeOptions) -> Job:
    return Job(
        base=plan.base,
        applied=plan.applied,
        asked=plan.arch.asked,
        given=options.given,
        inner_series=options.series,
        jobs=options.jobs,
        cache=options.cache,
        offline=options.offline,
    )


def foresee(project: Project, plan: Plan, options: NativeOptions, wheel: Path | None) -> Settled:
    """For a plan: measured where the build environment is in the cache, else as patches declare.

    wheel: the published one, if it is in the cache. Nothing is fetched, made or compiled.
    """
    kind = options.choice.kind
    if kind in (Kind.NAMED, Kind.ALL):
        check_crossing(project, plan, options.choice)
    if kind != Kind.AUTO or not reachable(plan.machine):
        return settle(options.choice, plan.components, None, {})
    job = job_of(plan, options)
    published = verdicts(project, plan, wheel) if wheel else {}
    raised = inner_reasons(project, job)
    maybe = possible(plan.components, published, job.asked, raised)
    if wheel and not maybe:
        return settle(options.choice, plan.components, [], {})
    setting = setting_of(plan, options, wheel)
    ahead = forecast(project, job, setting, maybe)
    if {reason.component for reason in maybe} - {*ahead.kept, *ahead.unfetched}:
        check_crossing(project, plan, options.choice)
    elif maybe and not ahead.unfetched:
        # What of upstream's wheel serves no device isn't known without it.
        found = settle(options.choice, plan.components, maybe, ahead.kept)
        return replace(found, measured=wheel is not None)
    try:
        env = env_for(project, plan, options, offline=True)
    except MachineError:
        found = settle(options.choice, plan.components, maybe, ahead.kept, ahead.unfetched)
        return replace(found, measured=False)
    reasons = stale(project, env, job, published, raised)
    ahead = forecast(project, job, setting, reasons)
    return settle(options.choice, plan.components, reasons, ahead.kept, ahead.unfetched)


def carry_out(
    project: Project, plan: Plan, options: NativeOptions, wheel: Path, log: Log
) -> Native:
    """For a build: compile what is named, or (auto) what is stale and whose sources can be had."""
    choice = options.choice
    if choice.kind in (Kind.NAMED, Kind.ALL):
        check_crossing(project, plan, choice)
    if choice.kind == Kind.NONE or not reachable(plan.machine):
        return Native(settled=settle(choice, plan.components, None, {}))
    job = job_of(plan, options)
    if choice.kind == Kind.ALL:
        return everything(project, plan, options, job, log)
    published: Verdicts = {}
    setting = setting_of(plan, options, wheel)
    if choice.kind == Kind.AUTO:
        published = verdicts(project, plan, wheel)
        settled = without_cmake(project, plan, job, choice, published, setting)
        if settled is not None:
            return Native(settled=told(settled))
    stay: dict[str, str] = {}
    with log.stage("configure", "Asking upstream's CMake what is stale"):
        env = env_for(project, plan, options, offline=options.offline)
        reasons = stale(project, env, job, published, inner_reasons(project, job))
        if choice.kind == Kind.AUTO:
            stay = kept(project, job, setting, reasons)
    settled = told(settle(choice, plan.components, reasons, stay))
    if not settled.rebuild:
        return Native(settled=settled)
    if deepgemm.COMPONENT in settled.rebuild:
        deepgemm.check_usable(plan.deepgemm)
    for name in settled.rebuild:
        if lost := would_lose(name, setting):
            say(f"  {name}: compiled with Python {setting.python} it will be gone for {lost}")
    with log.stage("compile", f"Compiling {', '.join(settled.rebuild)}"):
        rebuilt = rebuild(project, env, job, settled.rebuild)
        say(f"  {describe(rebuilt)}")
    return Native(settled=settled, rebuilt=rebuilt, env=env)


def everything(project: Project, plan: Plan, options: NativeOptions, job: Job, log: Log) -> Native:
    """--native all."""
    deepgemm.check_usable(plan.deepgemm)
    env = env_for(project, plan, options, offline=options.offline)
    with log.stage("compile", "Running the whole of upstream's build"):
        made = whole(project, env, job, plan.version)
        say(f"  {how_long(made.built)}; network: {made.built.network}")
    settled = settle(options.choice, plan.components, None, {})
    return Native(settled=settled, whole=made, env=env)


def without_cmake(
    project: Project,
    plan: Plan,
    job: Job,
    choice: Choice,
    published: Verdicts,
    setting: Setting,
) -> Settled | None:
    """The answer where none is needed of CMake: nothing may be stale, or all of it stays."""
    inner = inner_reasons(project, job)
    maybe = possible(plan.components, published, job.asked, inner)
    stay = kept(project, job, setting, maybe)
    return settle(choice, plan.components, maybe, stay) if len(stay) == len(maybe) else None


def setting_of(plan: Plan, options: NativeOptions, wheel: Path | None) -> Setting:
    return Setting(
        published=tuple(names_in(wheel)) if wheel else (),
        python=options.python or this_python(),
        crossing="" if plan.machine == this_machine() else plan.machine,
        useless=useless(plan),
    )


def useless(plan: Plan) -> frozenset[str]:
    """DeepGEMM where the published one has no kernels for any asked device: all are 12.x."""
    theirs = plan.deepgemm.carried_sm12x is False
    ours = all(asked.startswith("12.") for asked in plan.arch.asked)
    return frozenset({deepgemm.COMPONENT}) if theirs and ours else frozenset()


def told(settled: Settled) -> Settled:
    """Say what stays as published although it is stale: nobody should find out by running it."""
    for component in settled.components:
        if component.action == Action.STALE:
            say(f"  {component.name} stays as published: {component.why}")
    return settled


def verdicts(project: Project, plan: Plan, wheel: Path) -> Verdicts:
    return verdicts_of(published_code(wheel, plan.published.sha256, project.cache))


def check_crossing(project: Project, plan: Plan, choice: Choice) -> None:
    """Say what stands against compiling for another machine before anything is made or fetched."""
    target = target_of(plan.machine)
    if target is None:
        return
    if choice.kind == Kind.ALL:
        raise UsageError(
            f"--native all runs upstream's whole build, for {this_machine()} on this machine",
            means=f"For {plan.machine} this machine compiles extensions by name or where stale.",
            next=f"python build.py --platform {plan.machine} --native auto ...",
        )
    by_script = scripted_in(store_of(project), plan.applied.head)
    if impossible := [name for name in choice.names if name in by_script]:
        raise UsageError(
            f"{impossible[0]} of {plan.base.tag} is compiled by a script of upstream's, "
            f"for {this_machine()} on this machine",
            means=f"No compiler for {plan.machine} can be handed to it.",
            next=f"run the build on a machine of {plan.machine}, or leave {impossible[0]} out of "
            "--native",
        )
    target.tool("g++")


def env_for(project: Project, plan: Plan, options: NativeOptions, *, offline: bool) -> NativeEnv:
    """The build environment for the wheel's machine."""
    interpreter, version = find_python(plan.base, options.python)
    target = target_of(plan.machine)
    cmake = store_of(project).read(plan.applied.head, "CMakeLists.txt").decode()
    check_gcc(cmake, plan.base.tag, target.tool("g++") if target else None)
    if target is None:
        return native_env(project, plan.base, interpreter, version, offline=offline)
    return cross_env(project, plan.base, target, interpreter, version, offline=offline)


def describe(rebuilt: Rebuilt) -> str:
    """How the compile went, on one line."""
    if rebuilt.compiled is None:
        return "all of it was compiled before, from the same inputs"
    return how_long(rebuilt.compiled)


def how_long(made: Compiled | Whole) -> str:
    cached = f", {made.hits}" if made.hits else ""
    return (
        f"{made.seconds:.0f} s, {made.cpu_seconds:.0f} s of all processors, jobs {made.jobs}, "
        f"at most {made.peak_bytes / 2**30:.1f} GiB a process{cached}"
    )


def as_report(native: Native) -> dict[str, Any] | None:
    """For the build's report: what compiled, for how long and from what."""
    if native.env is None:
        return None
    made = native.whole.built if native.whole else None
    compiled = made or (native.rebuilt.compiled if native.rebuilt else None)
    took = took_of(compiled) if compiled else {}
    return {**as_built(native), "toolkit_from": native.env.toolkit.why, "took": took}


def took_of(made: Compiled | Whole) -> dict[str, Any]:
    return {
        "jobs": made.jobs,
        "seconds": round(made.seconds, 1),
        "cpu_seconds": round(made.cpu_seconds, 1),
        "peak_bytes": made.peak_bytes,
        "cache_hits": made.hits.hits if made.hits else None,
        "cache_misses": made.hits.misses if made.hits else None,
        "cache_note": made.hits.note if made.hits else "",
    }


def as_built(native: Native) -> dict[str, Any]:
    """For the record in the wheel: what decides the compiled bytes; nothing of this machine."""
    if native.env is None:
        return {}
    inner = native.whole.inner if native.whole else ()
    return {
        "cuda": native.env.toolkit.version,
        "compiler": native.env.compiler,
        "torch": native.env.torch,
        "python": native.env.python,
        "components": dict(native.rebuilt.keys) if native.rebuilt else "all",
        "inner": as_record(native.rebuilt.inner if native.rebuilt else inner),
    }
