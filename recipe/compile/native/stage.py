# SPDX-License-Identifier: Apache-2.0
"""The native part of a plan and of a build: ask what is stale, and compile it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipe.bases.sources import store_of
from recipe.compile import deepgemm
from recipe.compile.inner.folders import as_record, scripted_in
from recipe.compile.native.build import Rebuilt, rebuild, stale
from recipe.compile.native.choice import Kind
from recipe.compile.native.inner_stale import inner_reasons
from recipe.compile.native.kept import Setting, forecast, kept, would_lose
from recipe.compile.native.settle import Settled, Verdicts, possible, settle, verdicts_of
from recipe.compile.native.wanted import Wanted
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


def foresee(project: Project, wanted: Wanted, wheel: Path | None) -> Settled:
    """For a plan: measured where the build environment is in the cache, else as patches declare.

    wheel: the published one, if it is in the cache. Nothing is fetched, made or compiled.
    """
    kind = wanted.choice.kind
    if kind in (Kind.NAMED, Kind.ALL):
        check_crossing(project, wanted)
    if kind != Kind.AUTO or not reachable(wanted.machine):
        return settle(wanted.choice, wanted.declared, None, {})
    job = wanted.job
    published = verdicts(project, wanted, wheel) if wheel else {}
    raised = inner_reasons(project, job)
    maybe = possible(wanted.declared, published, job.asked, raised)
    if wheel and not maybe:
        return settle(wanted.choice, wanted.declared, [], {})
    setting = setting_of(wanted, wheel)
    ahead = forecast(project, job, setting, maybe)
    if {reason.component for reason in maybe} - {*ahead.kept, *ahead.unfetched}:
        check_crossing(project, wanted)
    elif maybe and not ahead.unfetched:
        # What of upstream's wheel serves no device isn't known without it.
        found = settle(wanted.choice, wanted.declared, maybe, ahead.kept)
        return replace(found, measured=wheel is not None)
    try:
        env = env_for(project, wanted, offline=True)
    except MachineError:
        found = settle(wanted.choice, wanted.declared, maybe, ahead.kept, ahead.unfetched)
        return replace(found, measured=False)
    reasons = stale(project, env, job, published, raised)
    ahead = forecast(project, job, setting, reasons)
    return settle(wanted.choice, wanted.declared, reasons, ahead.kept, ahead.unfetched)


def carry_out(project: Project, wanted: Wanted, wheel: Path, log: Log) -> Native:
    """For a build: compile what is named, or (auto) what is stale and whose sources can be had."""
    choice = wanted.choice
    if choice.kind in (Kind.NAMED, Kind.ALL):
        check_crossing(project, wanted)
    if choice.kind == Kind.NONE or not reachable(wanted.machine):
        return Native(settled=settle(choice, wanted.declared, None, {}))
    if choice.kind == Kind.ALL:
        return everything(project, wanted, log)
    job = wanted.job
    published: Verdicts = {}
    setting = setting_of(wanted, wheel)
    if choice.kind == Kind.AUTO:
        published = verdicts(project, wanted, wheel)
        settled = without_cmake(project, wanted, published, setting)
        if settled is not None:
            return Native(settled=told(settled))
    stay: dict[str, str] = {}
    with log.stage("configure", "Asking upstream's CMake what is stale"):
        env = env_for(project, wanted, offline=wanted.job.offline)
        reasons = stale(project, env, job, published, inner_reasons(project, job))
        if choice.kind == Kind.AUTO:
            stay = kept(project, job, setting, reasons)
    settled = told(settle(choice, wanted.declared, reasons, stay))
    if not settled.rebuild:
        return Native(settled=settled)
    if deepgemm.COMPONENT in settled.rebuild:
        deepgemm.check_usable(wanted.deepgemm)
    for name in settled.rebuild:
        if lost := would_lose(name, setting):
            say(f"  {name}: compiled with Python {setting.python} it will be gone for {lost}")
    with log.stage("compile", f"Compiling {', '.join(settled.rebuild)}"):
        rebuilt = rebuild(project, env, job, settled.rebuild)
        say(f"  {describe(rebuilt)}")
    return Native(settled=settled, rebuilt=rebuilt, env=env)


def everything(project: Project, wanted: Wanted, log: Log) -> Native:
    """--native all."""
    deepgemm.check_usable(wanted.deepgemm)
    env = env_for(project, wanted, offline=wanted.job.offline)
    with log.stage("compile", "Running the whole of upstream's build"):
        made = whole(project, env, wanted.job, wanted.version)
        say(f"  {how_long(made.built)}; network: {made.built.network}")
    settled = settle(wanted.choice, wanted.declared, None, {})
    return Native(settled=settled, whole=made, env=env)


def without_cmake(
    project: Project,
    wanted: Wanted,
    published: Verdicts,
    setting: Setting,
) -> Settled | None:
    """The answer where none is needed of CMake: nothing may be stale, or all of it stays."""
    inner = inner_reasons(project, wanted.job)
    maybe = possible(wanted.declared, published, wanted.job.asked, inner)
    stay = kept(project, wanted.job, setting, maybe)
    return settle(wanted.choice, wanted.declared, maybe, stay) if len(stay) == len(maybe) else None


def setting_of(wanted: Wanted, wheel: Path | None) -> Setting:
    return Setting(
        published=tuple(names_in(wheel)) if wheel else (),
        python=wanted.python or this_python(),
        crossing="" if wanted.machine == this_machine() else wanted.machine,
        useless=useless(wanted),
    )


def useless(wanted: Wanted) -> frozenset[str]:
    """DeepGEMM where the published one has no kernels for any asked device: all are 12.x."""
    theirs = wanted.deepgemm.carried_sm12x is False
    ours = all(asked.startswith("12.") for asked in wanted.job.asked)
    return frozenset({deepgemm.COMPONENT}) if theirs and ours else frozenset()


def told(settled: Settled) -> Settled:
    """Say what stays as published although it is stale: nobody should find out by running it."""
    for component in settled.components:
        if component.action == Action.STALE:
            say(f"  {component.name} stays as published: {component.why}")
    return settled


def verdicts(project: Project, wanted: Wanted, wheel: Path) -> Verdicts:
    return verdicts_of(published_code(wheel, wanted.published.sha256, project.cache))


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
