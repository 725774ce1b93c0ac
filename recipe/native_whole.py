# SPDX-License-Identifier: Apache-2.0
"""``--native all``: every inner source for real, and upstream's own build of the patched tree."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from recipe import sccache
from recipe.config import Project
from recipe.inner import InnerSource, declared_in, inner_sources
from recipe.lock import hold
from recipe.native_build import Job, prepare, request_for
from recipe.native_env import NativeEnv
from recipe.sources import store_of
from recipe.whole import Order, Whole, build_whole

# The name by which --sources gives the folder that `cargo vendor` wrote.
CRATES = "rust"


@dataclass(frozen=True, kw_only=True)
class WholeBuild:
    """The wheel upstream's build made, what that took, and the inner sources it is from."""

    built: Whole
    inner: tuple[InnerSource, ...]


def whole(project: Project, env: NativeEnv, job: Job, version: str) -> WholeBuild:
    """Build everything; SourceError (3) names the first source that can't be had."""
    declared = declared_in(store_of(project), job.applied.head)
    targets = tuple(sorted({target for one in declared for target in one.targets}))
    inner = inner_sources(project, job.applied.head, request_for(job, targets))
    crates = job.given.named.get(CRATES) or job.given.offered.get(CRATES)
    native = project.cache / "native"
    text = json.dumps([str(env.folder), job.arch_list, "all"])
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
    return WholeBuild(built=built, inner=inner)
