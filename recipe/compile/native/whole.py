# SPDX-License-Identifier: Apache-2.0
"""``--native all``: every inner source for real, and upstream's own build of the patched tree."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from recipe.bases.components import component_name
from recipe.bases.sources import store_of
from recipe.compile.configure import Build, Step, compile_commands, component_of
from recipe.compile.inner.folders import InnerSource, declared_in, inner_sources
from recipe.compile.native.build import check, prepare, request_for
from recipe.compile.native.wanted import Job
from recipe.compile.toolchain import sccache
from recipe.compile.toolchain.environment import NativeEnv
from recipe.compile.whole import Order, Whole, build_whole
from recipe.ground import scratch
from recipe.ground.errors import CompileError
from recipe.ground.lock import hold
from recipe.ground.project import Project

# The name by which --sources gives the folder that `cargo vendor` wrote.
CRATES = "rust"


@dataclass(frozen=True, kw_only=True)
class WholeBuild:
    """The wheel upstream's build made, what that took, and the inner sources it is from."""

    built: Whole
    inner: tuple[InnerSource, ...]


def whole(project: Project, env: NativeEnv, job: Job, version: str) -> WholeBuild:
    """Build everything; SourceError (3) names the first source that can't be had.

    AuditError (6) names an extension that can't be loaded, or lacks code that nvcc was to make.
    """
    declared = declared_in(store_of(project), job.applied.head)
    targets = tuple(sorted({target for one in declared for target in one.targets}))
    inner = inner_sources(project, job.applied.head, request_for(job, targets))
    crates = job.given.named.get(CRATES) or job.given.offered.get(CRATES)
    native = project.cache / "native"
    text = json.dumps([str(env.folder), job.arch_list, "all", *env.told.values()])
    work = native / "work" / f"{job.base.tag}-{hashlib.sha256(text.encode()).hexdigest()[:8]}-all"
    with (
        hold(project.cache / "locks" / f"native-{work.name}.lock", f"the build of {work.name}"),
        sccache.compiler_cache(job.cache, project, work, offline=job.offline) as cache,
    ):
        place = prepare(project, job, work, inner, cache.tool if cache else None)
        order = Order(
            place=place,
            arch_list=job.arch_list,
            version=version,
            commit=job.base.commit,
            crates=crates,
        )
        built = build_whole(
            env, order, asked_jobs=job.jobs, cache=cache, peaks=native, offline=job.offline
        )
        check_wheel(project, env, job.asked, built.wheel, compiled_for(order.work))
    return WholeBuild(built=built, inner=inner)


def compiled_for(work: Path) -> dict[str, Build]:
    """What setup.py's CMake told nvcc to make code for, by component.

    setup.py configures in a folder that setuptools names by platform and Python.
    """
    steps: dict[str, list[Step]] = {}
    lists = sorted(work.glob("temp*/compile_commands.json"))
    for path in lists:
        for entry in compile_commands(path):
            step = Step(source=entry["file"], command=entry["command"])
            steps.setdefault(component_of(entry["output"]), []).append(step)
    if not lists:
        raise CompileError(
            f"setup.py left no list of its compiles below {work}",
            means="So its extensions can't be held against what nvcc was told; none is used.",
            next="look at how its setup.py calls CMake, or compile what is stale: --native auto",
        )
    return {name: build_of(name, tuple(found)) for name, found in steps.items()}


def build_of(name: str, steps: tuple[Step, ...] = ()) -> Build:
    return Build(name=name, steps=steps, link="", files={})


def check_wheel(
    project: Project,
    env: NativeEnv,
    asked: tuple[str, ...],
    wheel: Path,
    builds: dict[str, Build],
) -> None:
    """Each extension as one that was compiled by itself is checked; cargo's has no GPU code."""
    with scratch.folder(project.cache, "check") as folder, zipfile.ZipFile(wheel) as archive:
        for member in sorted(archive.namelist()):
            if member.endswith(".so"):
                name = component_name(member)
                file = Path(archive.extract(member, folder))
                check(env, builds.get(name) or build_of(name), {member: file}, asked)
                file.unlink()  # a CUDA build has several GB of them
