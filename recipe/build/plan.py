# SPDX-License-Identifier: Apache-2.0
"""What a build will do and why, before it does anything: the one model behind plan and build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recipe.bases.releases import DEFAULT_ARCH, Base, Bases
from recipe.bases.sources import store_of, vllm_source
from recipe.compile import deepgemm
from recipe.compile.inner.given import Given
from recipe.compile.native.settle import Settled
from recipe.compile.native.wanted import Job, NativeOptions, Wanted
from recipe.compile.toolchain.target import machine_of
from recipe.gpu import arch
from recipe.ground.digest import sha256
from recipe.ground.errors import UsageError
from recipe.ground.project import Project
from recipe.objects.git import Store
from recipe.series.patch import NATIVE, Patch
from recipe.series.topics import Series, State, resolve_series
from recipe.series.tree import Applied, apply_all
from recipe.wheel.components import Component, components, in_wheel
from recipe.wheel.origin import Origin

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Plan(Origin):
    """Everything that decides the wheel's bytes, and what a person wants to know beforehand."""

    arch: arch.ArchPlan
    components: tuple[Component, ...]
    platform: str | None
    deepgemm: deepgemm.DeepGemm


def make_plan(
    project: Project,
    bases: Bases,
    base: Base,
    *,
    arch_list: str,
    platform: str,
    source: str,
    offline: bool,
    given: Given | None = None,
) -> Plan:
    """Read sources, apply the series in the store and decide what becomes of every part."""
    asked = arch.parse(arch_list)
    machine, tag = parse_platform(platform, base)
    series = resolve_series(project, bases, base)
    upstream = vllm_source(project, base, source=source, offline=offline)
    store = store_of(project)
    applied = apply_all(store, upstream.commit, series.patches, series.files)
    cmake = store.read(applied.head, "CMakeLists.txt").decode()
    return Plan(
        base=base,
        source=upstream,
        series=series,
        applied=applied,
        arch=served(arch.plan(asked, cmake, base.cuda, base.version), arch_list),
        components=components((f"{name}.so" for name in base.components), every_patch(series)),
        published=base.wheels[machine],
        machine=machine,
        platform=tag,
        version=f"{base.version}+sm12x.{bases.revision}",
        not_carried=not_carried(applied),
        source_tree=store.tree_of(applied.base),
        tree=store.tree_of(applied.head),
        deepgemm=deepgemm.of_base(store, upstream.commit, base, given),
    )


def wanted(plan: Plan, options: NativeOptions) -> Wanted:
    """What a plan and the command line ask of a compile."""
    return Wanted(
        job=Job(
            base=plan.base,
            applied=plan.applied,
            asked=plan.arch.asked,
            given=options.given,
            inner_series=options.series,
            jobs=options.jobs,
            cache=options.cache,
            offline=options.offline,
        ),
        choice=options.choice,
        python=options.python,
        declared=plan.components,
        deepgemm=plan.deepgemm,
        published=plan.published,
        machine=plan.machine,
        version=plan.version,
    )


def every_patch(series: Series) -> tuple[Patch, ...]:
    """vLLM's patches of a series and those of its inner sources."""
    applied = (topic.patch for topic in series.topics if topic.state == State.APPLIES)
    return tuple(patch for patch in applied if patch is not None)


def parse_platform(text: str, base: Base) -> tuple[str, str | None]:
    """The machine of ``auto``, ``x86_64`` or ``manylinux_2_28_aarch64``, and the tag if given."""
    machine, tag = machine_of(text)
    if machine not in base.wheels:
        raise UsageError(
            f"--platform {text!r}: {base.tag} is published for {', '.join(sorted(base.wheels))}",
            next="python build.py --platform manylinux_2_28_aarch64 ...",
        )
    return machine, tag


def served(plan: arch.ArchPlan, asked: str) -> arch.ArchPlan:
    for device in plan.devices:
        if device.verdict == arch.Verdict.NONE:
            raise UsageError(
                f"--arch {asked!r} gives {device.capability} ({arch.DEVICES[device.capability]}) "
                "no code it can run",
                means=device.why + ".",
                next=f"python build.py --arch '{DEFAULT_ARCH}' ...",
            )
    return plan


def not_carried(applied: Applied) -> tuple[str, ...]:
    """Changed paths that are in no wheel and that no component stands for."""
    return tuple(
        change.path
        for change in applied.changes
        if not in_wheel(change.path) and not NATIVE.search(change.path)
    )


def wheel_changes(store: Store, plan: Plan) -> tuple[dict[str, bytes], dict[str, str], set[str]]:
    """Of the patched tree: content of new and changed members, sha256 of the old, removed ones."""
    files: dict[str, bytes] = {}
    before: dict[str, str] = {}
    removed: set[str] = set()
    for change in plan.applied.changes:
        if not in_wheel(change.path):
            continue
        if change.status != "A":
            before[change.path] = sha256(store.read(plan.applied.base, change.path))
        if change.status == "D":
            removed.add(change.path)
        else:
            files[change.path] = store.read(plan.applied.head, change.path)
    return files, before, removed


def carried(plan: Plan, settled: Settled) -> deepgemm.DeepGemm:
    """The DeepGEMM of the wheel that is planned."""
    kept = settled.kept.get(deepgemm.COMPONENT, "")
    return deepgemm.settled(plan.deepgemm, settled.certain, settled.unfetched, kept)


def as_json(plan: Plan, settled: Settled) -> dict[str, Any]:
    """The document of ``plan --json``."""
    return {
        "schema": SCHEMA,
        "base": plan.base.tag,
        "arch": list(plan.arch.asked),
        "torch_cuda_arch_list": ";".join(plan.arch.asked),
        "compiled_archs": list(plan.arch.compiled),
        "devices": {d.capability: {"verdict": d.verdict, "why": d.why} for d in plan.arch.devices},
        "source": {"kind": plan.source.kind, "origin": plan.source.origin},
        "version": plan.version,
        "platform": plan.machine,
        "published_wheel": {"name": plan.published.name, "sha256": plan.published.sha256},
        "patchset_digest": plan.series.digest,
        "commit": plan.applied.head,
        "topics": [
            {
                "topic": t.name,
                "state": t.state,
                "patch": t.patch.path if t.patch else None,
                "why": t.why,
            }
            for t in plan.series.topics
        ],
        "patches": [
            {"path": p.path, "topic": p.topic, "subject": p.subject, "commit": commit}
            for p, (_, commit) in zip(plan.series.patches, plan.applied.commits, strict=False)
        ],
        "overlay": [file.path for file in plan.series.files],
        "components": [
            {"name": c.name, "action": c.action, "why": c.why} for c in settled.components
        ],
        "components_measured": settled.measured,
        "not_carried": list(plan.not_carried),
        "deepgemm": deepgemm.as_json(carried(plan, settled)),
    }


def as_text(plan: Plan, settled: Settled) -> str:
    """The same for a person."""
    lines = [
        f"base       {plan.base.tag} (torch {plan.base.torch}, CUDA {plan.base.cuda}), "
        f"{plan.source.origin}",
        f"wheel      {plan.version} for {plan.machine}, from {plan.published.name}",
        f"patchset   {plan.series.digest}",
        f"arch       TORCH_CUDA_ARCH_LIST={';'.join(plan.arch.asked)} "
        f"-> {';'.join(plan.arch.compiled)}",
    ]
    for device in plan.arch.devices:
        lines.append(f"  {device.capability}  {device.verdict}: {device.why}")
    lines.append("topics")
    width = max((len(topic.name) for topic in plan.series.topics), default=0)
    for topic in plan.series.topics:
        lines.append(f"  {topic.name:{width}}  {topic.state:10}  {topic.why}")
    lines.append(f"overlay    {len(plan.series.files)} files")
    lines.append(f"components{'' if settled.measured else ' (as the patches declare)'}")
    width = max((len(component.name) for component in settled.components), default=0)
    for component in settled.components:
        lines.append(f"  {component.name:{width}}  {component.action:7}  {component.why}")
    lines += deepgemm.as_lines(carried(plan, settled))
    if plan.not_carried:
        lines.append(f"in the source tree only, not in a wheel: {', '.join(plan.not_carried)}")
    return "\n".join(lines)
