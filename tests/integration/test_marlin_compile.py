# SPDX-License-Identifier: Apache-2.0
"""One real Marlin-MoE source of v0.20.2, compiled as the recipe does it and looked into.

It takes the base's own torch, a CUDA build of several GB, and a toolkit from packages where the
machine has none. Upstream's own tree gives the same source sm_80 code and PTX.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipe.bases.releases import Bases
from recipe.bases.sources import store_of
from recipe.build.plan import make_plan
from recipe.compile.configure import Build, Place, configure, read_builds, variables
from recipe.compile.inner.folders import inner_sources
from recipe.compile.native.build import configured, place_of, request_for, stale
from recipe.compile.native.wanted import Job
from recipe.compile.toolchain.environment import NativeEnv, native_env
from recipe.compile.toolchain.python import find_python
from recipe.gpu.arch import Verdict, parse
from recipe.gpu.code import verdicts
from recipe.ground import run
from recipe.ground.project import Project
from tests.recipe.world import CHECKOUT, Checkout

BASE = "v0.20.2"
COMPONENT = "_moe_C"
# The smallest of them: a minute or two on one core.
SOURCE = "csrc/moe/marlin_moe_wna16/sm89_kernel_fe4m3fn_fe2m1f_bfloat16.cu"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The patched tree, configured for DGX Spark."""

    project: Project
    env: NativeEnv
    job: Job
    place: Place
    builds: dict[str, Build]


@pytest.fixture(scope="module")
def bench(
    bases: Bases, real: Checkout, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    project = Project(root=CHECKOUT, cache=real.cache)
    base = bases.find(BASE)
    plan = make_plan(
        project, bases, base, arch_list="12.1", platform="auto", source="auto", offline=False
    )
    env = native_env(project, base, *find_python(base, None), offline=False)
    job = Job(base=base, applied=plan.applied, asked=parse("12.1"))
    folder = tmp_path_factory.mktemp("marlin")
    request = request_for(job, (COMPONENT,))
    place = place_of(folder, inner_sources(project, plan.applied.head, request))
    place.tree.mkdir()
    store_of(project).export(plan.applied.head, place.tree)
    configure(env, place, job.arch_list)
    builds = read_builds(env, place)
    yield Bench(project=project, env=env, job=job, place=place, builds=builds)


def test_the_series_makes_the_components_with_marlin_stale(bench: Bench) -> None:
    reasons = {r.component: r.why for r in stale(bench.project, bench.env, bench.job, {})}
    declared = {"_C", "_moe_C", "_deep_gemm_C"}
    assert set(reasons) == declared
    assert "sm_80, compute_80 to sm_120f" in reasons[COMPONENT]


def test_upstreams_tree_would_give_marlin_code_for_another_device(bench: Bench) -> None:
    pristine = configured(bench.project, bench.env, bench.job, bench.job.applied.base)
    marlin = [s for s in pristine[COMPONENT].steps if "marlin_moe_wna16/sm80" in s.source]
    assert marlin
    assert {step.targets for step in marlin} == {("sm_80", "compute_80")}


def test_a_marlin_source_compiles_to_code_that_both_chips_run(bench: Bench, tmp_path: Path) -> None:
    (step,) = [s for s in bench.builds[COMPONENT].steps if s.source == f"tree/{SOURCE}"]
    assert step.targets == ("sm_120f",)
    target = f"CMakeFiles/{COMPONENT}.dir/{SOURCE}.o"
    env = variables(bench.env, bench.place, bench.job.arch_list)
    command = [bench.env.tool("ninja"), "-C", str(bench.place.build), target]
    subprocess.run(command, env=run.changed(env), check=True)
    library = tmp_path / "_marlin.so"
    linked = ["c++", "-shared", "-o", str(library), str(bench.place.build / target)]
    subprocess.run(linked, check=True)
    found = verdicts(library, ("12.0", "12.1", "9.0"))
    assert found == {"12.0": Verdict.FAMILY, "12.1": Verdict.FAMILY, "9.0": Verdict.NONE}
