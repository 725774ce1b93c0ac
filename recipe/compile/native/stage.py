# SPDX-License-Identifier: Apache-2.0
"""The native part of a build: compile what is to be compiled, and tell what that was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.compile import deepgemm
from recipe.compile.inner.folders import as_record
from recipe.compile.native.build import Rebuilt, rebuild
from recipe.compile.native.choice import Kind
from recipe.compile.native.fates import env_for, settled
from recipe.compile.native.settle import Settled
from recipe.compile.native.wanted import Wanted
from recipe.compile.native.whole import WholeBuild, whole
from recipe.compile.ninja import Compiled
from recipe.compile.toolchain.environment import NativeEnv
from recipe.compile.whole import Whole
from recipe.ground.log import Log, say
from recipe.ground.project import Project
from recipe.wheel.components import Action


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


def carry_out(project: Project, wanted: Wanted, wheel: Path, log: Log) -> Native:
    """For a build: compile what is named, or (auto) what is stale and whose sources can be had."""
    found = settled(project, wanted, wheel, log)
    if wanted.choice.kind == Kind.ALL:
        return everything(project, wanted, found, log)
    if found.measured:
        tell_stale(found)
    if found.env is None or not found.rebuild:
        return Native(settled=found)
    if deepgemm.COMPONENT in found.rebuild:
        deepgemm.check_usable(wanted.deepgemm)
    for name, gone in found.lost.items():
        say(f"  {name}: compiled with Python {found.env.python} it will be gone for {gone}")
    with log.stage("compile", f"Compiling {', '.join(found.rebuild)}"):
        rebuilt = rebuild(project, found.env, wanted.job, found.rebuild)
        say(f"  {describe(rebuilt)}")
    return Native(settled=found, rebuilt=rebuilt, env=found.env)


def everything(project: Project, wanted: Wanted, found: Settled, log: Log) -> Native:
    """--native all."""
    deepgemm.check_usable(wanted.deepgemm)
    env = env_for(project, wanted, offline=wanted.job.offline)
    with log.stage("compile", "Running the whole of upstream's build"):
        made = whole(project, env, wanted.job, wanted.version)
        say(f"  {how_long(made.built)}; network: {made.built.network}")
    return Native(settled=found, whole=made, env=env)


def tell_stale(found: Settled) -> None:
    """Say what stays as published although it is stale: nobody should find out by running it."""
    for component in found.components:
        if component.action == Action.STALE:
            say(f"  {component.name} stays as published: {component.why}")


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
