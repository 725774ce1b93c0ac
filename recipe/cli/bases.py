# SPDX-License-Identifier: Apache-2.0
"""The verb bases: list the pinned releases, pin one, look for newer ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.bases.releases import Base, Bases, load_bases
from recipe.cli.answers import show
from recipe.cli.options import verb
from recipe.ground.project import Project

if TYPE_CHECKING:
    from recipe.bases.flashinfer import Told
    from recipe.compile.deepgemm import DeepGemm


def add_bases(verbs: Any, name: str) -> None:
    parser = verb(
        verbs, name, "list the pinned releases, pin one, or look for newer ones", run_bases
    )
    parser.add_argument("action", nargs="?", choices=("list", "add", "check"), default="list")
    parser.add_argument(
        "tags", nargs="*", metavar="BASE", help="what to pin: vX.Y.Z, a candidate, main, a commit"
    )
    parser.add_argument(
        "--source",
        default="auto",
        help="auto: the index, and upstream's repository for what it hasn't got; git; a git URL; "
        "a mirror on this disk",
    )
    parser.add_argument(
        "--wheel",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="take the binaries of a commit from this wheel (again for another machine's)",
    )


def run_bases(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.bases import catalog, commit
    from recipe.ground.errors import UsageError

    if options.action == "check":
        found = catalog.newer(load_bases(project.bases_file))
        lines = [f"{tag}  python build.py bases add {tag}" for tag in found]
        show(options, "\n".join(lines) or "no newer release")
        return {"newer": found}
    if options.action == "add":
        if not options.tags:
            raise UsageError("no release was named", next="python build.py bases add v0.33.0")
        wanted = commit.Wanted(names=options.tags, source=options.source, wheels=options.wheel)
        return show_moved(options, project, commit.add(project, wanted))
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

    from recipe.bases import flashinfer
    from recipe.compile import deepgemm
    from recipe.follow.moved import moved
    from recipe.series.topics import read_series

    patches = read_series(project)
    pinned = [bases.find(name) for name in options.tags]
    tags = [base.tag for base in pinned]
    found = [
        move
        for old, new in pairwise(bases.releases)
        if new.tag in tags
        for move in moved(old, new, [p for p in patches if p.bases.contains(old.version)])
    ]
    lines = [f"pinned {' '.join(tags)} in bases.toml"]
    for move in found:
        touched = f" (touched by {', '.join(move.patches)})" if move.patches else ""
        lines.append(f"{move.base} {move.pin}{touched}\n  - {move.old}\n  + {move.new}")
    carried = {base.tag: deepgemm_of(project, base) for base in pinned}
    for tag, one in carried.items():
        lines += [tag, *(f"  {line}" for line in deepgemm.as_lines(one))]
    served = {base.tag: paths_of(project, base) for base in pinned}
    for tag, told in served.items():
        lines += [tag, *(f"  {line}" for line in flashinfer.as_lines(told))]
    show(options, "\n".join(lines))
    return {
        "pinned": tags,
        "moved": [asdict(move) for move in found],
        "deepgemm": {tag: deepgemm.as_json(one) for tag, one in carried.items()},
        "paths": {tag: flashinfer.as_json(told) for tag, told in served.items()},
    }


def paths_of(project: Project, base: Base) -> Told:
    """Who serves each model on SM12x in a release that was just pinned."""
    from recipe.bases import flashinfer
    from recipe.bases.catalog import reader
    from recipe.bases.sources import from_sdists, store_of

    commit, store = from_sdists(project, [base], offline=True)[base.tag], store_of(project)
    overlay = project.root / "overlay" / "vllm"
    return flashinfer.tell(overlay, str(base.version), reader(store, commit, base.tag))


def deepgemm_of(project: Project, base: Base) -> DeepGemm:
    """The DeepGEMM of a release that was just pinned, whose source is in the store."""
    from recipe.bases.sources import from_sdists, store_of
    from recipe.compile import deepgemm

    commit = from_sdists(project, [base], offline=True)[base.tag]
    return deepgemm.of_base(store_of(project), commit, base)
