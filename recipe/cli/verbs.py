# SPDX-License-Identifier: Apache-2.0
"""What each verb does: from parsed options to a text for a person and a JSON document.

What is heavy is imported in the verb that uses it, after the first line is out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.bases.releases import Base, Bases, load_bases
from recipe.ground.log import Log, say
from recipe.ground.project import Project

if TYPE_CHECKING:
    from recipe.build.plan import Plan
    from recipe.compile.deepgemm import DeepGemm
    from recipe.compile.native.wanted import NativeOptions


def run_build(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    if options.dry_run:
        return run_plan(options, project)
    bases, base = greet(options, project)
    from recipe.build import pipeline
    from recipe.build.report import summary

    native = native_options(options, project, bases, base)
    wanted = pipeline.Options(
        arch=options.arch,
        platform=options.platform,
        source=options.source,
        out=options.out.resolve(),
        offline=options.offline,
        test=not options.no_test,
        test_torch=options.test_torch,
        python=options.python,
        native=native,
    )
    built = pipeline.build(project, bases, base, wanted, Log())
    show(options, summary(built.report, built.wheel))
    return built.report


def greet(options: argparse.Namespace, project: Project) -> tuple[Bases, Base]:
    """Say at once what the command is about."""
    bases = load_bases(project.bases_file)
    base = bases.find(options.base)
    say(f"{base.tag} ({base.commit}), torch {base.torch}; cache {project.cache}")
    return bases, base


def run_plan(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe.build import plan
    from recipe.compile.native import stage as native_stage

    native = native_options(options, project, bases, base)
    made = plan.make_plan(
        project,
        bases,
        base,
        arch_list=options.arch,
        platform=options.platform,
        source=options.source,
        offline=options.offline,
        given=native.given,
    )
    wheel = published_wheel(project, made)
    settled = native_stage.foresee(project, plan.wanted(made, native), wheel)
    show(options, plan.as_text(made, settled))
    return plan.as_json(made, settled)


def published_wheel(project: Project, plan: Plan) -> Path | None:
    """Upstream's wheel if it is in the cache."""
    from recipe.bases.download import fetch
    from recipe.ground.errors import SourceError

    version = str(plan.base.version)
    try:
        return fetch(
            plan.published, project="vllm", version=version, cache=project.cache, offline=True
        )
    except SourceError:
        return None


def native_options(
    options: argparse.Namespace, project: Project, bases: Bases, base: Base
) -> NativeOptions:
    """What --native and its companions ask for."""
    from recipe.compile.inner.find import Series as InnerSeries
    from recipe.compile.inner.given import parse_given
    from recipe.compile.native.choice import parse_choice
    from recipe.compile.native.wanted import NativeOptions
    from recipe.compile.native.whole import CRATES
    from recipe.series.topics import resolve_series

    known = {
        name for patch in resolve_series(project, bases, base).patches for name in patch.components
    }
    deepgemm = resolve_series(project, bases, base, "deepgemm")
    return NativeOptions(
        choice=parse_choice(options.native, {*base.components, *known}),
        given=parse_given(options.sources, [*(pin.name for pin in base.inner), CRATES]),
        series={"deepgemm": InnerSeries(patches=deepgemm.patches, files=deepgemm.files)},
        jobs=options.jobs,
        cache=options.compiler_cache,
        python=options.python,
        offline=options.offline,
    )


def run_bases(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.bases import catalog
    from recipe.ground.errors import UsageError

    if options.action == "check":
        found = catalog.newer(load_bases(project.bases_file))
        lines = [f"{tag}  python build.py bases add {tag}" for tag in found]
        show(options, "\n".join(lines) or "no newer release")
        return {"newer": found}
    if options.action == "add":
        if not options.tags:
            raise UsageError("no release was named", next="python build.py bases add v0.33.0")
        return show_moved(options, project, catalog.add(project, options.tags))
    rows = catalog.table(load_bases(project.bases_file))
    columns = list(rows[0])
    width = {c: max(len(c), *(len(row[c]) for row in rows)) for c in columns}
    lines = [
        "  ".join(f"{row[c]:{width[c]}}" for c in columns).rstrip()
        for row in [{c: c for c in columns}, *rows]
    ]
    show(options, "\n".join(lines))
    return {"bases": rows}


def show_moved(options: argparse.Namespace, project: Project, bases: Bases) -> dict[str, Any]:
    """What moved between each base that was pinned and the one before it."""
    from dataclasses import asdict
    from itertools import pairwise

    from recipe.compile import deepgemm
    from recipe.follow.moved import moved
    from recipe.series.topics import read_series

    patches = read_series(project)
    found = [
        move
        for old, new in pairwise(bases.releases)
        if new.tag in options.tags
        for move in moved(old, new, [p for p in patches if p.bases.contains(old.version)])
    ]
    lines = [f"pinned {' '.join(options.tags)} in bases.toml"]
    for move in found:
        touched = f" (touched by {', '.join(move.patches)})" if move.patches else ""
        lines.append(f"{move.base} {move.pin}{touched}\n  - {move.old}\n  + {move.new}")
    carried = {base.tag: deepgemm_of(project, base) for base in map(bases.find, options.tags)}
    for tag, one in carried.items():
        lines += [tag, *(f"  {line}" for line in deepgemm.as_lines(one))]
    show(options, "\n".join(lines))
    return {
        "pinned": options.tags,
        "moved": [asdict(move) for move in found],
        "deepgemm": {tag: deepgemm.as_json(one) for tag, one in carried.items()},
    }


def deepgemm_of(project: Project, base: Base) -> DeepGemm:
    """The DeepGEMM of a release that was just pinned, whose source is in the store."""
    from recipe.bases.sources import from_sdists, store_of
    from recipe.compile import deepgemm

    commit = from_sdists(project, [base], offline=True)[base.tag]
    return deepgemm.of_base(store_of(project), commit, base)


def run_test(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.cli.wheel.test import run_suite

    bases: Bases = load_bases(project.bases_file)
    names = options.base
    if names == ["all"]:
        names = [base.tag for base in bases.releases]
    chosen = [bases.find(name) for name in names]
    return run_suite(project, bases, chosen, torch=options.test_torch, pytest=options.pytest)


def run_doctor(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.cli.doctor import examine
    from recipe.compile.toolchain.target import machine_of

    findings = examine(project, machine_of(options.platform)[0])
    lines = [f"{'ok  ' if f.good else 'LACKS'} {f.name}: {f.detail}" for f in findings]
    lines += [f"  next: {f.next}" for f in findings if not f.good]
    show(options, "\n".join(lines))
    bad = [f for f in findings if not f.good]
    return {
        "findings": [
            {"name": f.name, "good": f.good, "detail": f.detail, "needed_by": f.needed_by}
            for f in findings
        ],
        "exit_code": 8 if bad else 0,
    }


def show(options: argparse.Namespace, text: str) -> None:
    """The answer for a person: on stdout, unless the JSON document goes there."""
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)
