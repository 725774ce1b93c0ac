# SPDX-License-Identifier: Apache-2.0
"""The verb apply: the patched tree as a git repository, one commit a patch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recipe.cli.answers import greet, show
from recipe.cli.options import add_base, add_source, add_upstream, verb
from recipe.cli.series.found import find_series
from recipe.ground.project import Project


def add_apply(verbs: Any, name: str) -> None:
    parser = verb(
        verbs,
        name,
        "write the patched tree as a git repository, one commit a patch",
        run_apply,
    )
    add_base(parser)
    add_source(parser)
    parser.add_argument("--tree", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--until", metavar="PATCH", help="stop before this patch")
    add_upstream(parser)


def run_apply(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe.series import tree

    series, store, source = find_series(options, project, bases, base)
    patches = tree.until(series.patches, options.until)
    files = series.files if options.until is None else ()
    applied = tree.apply_all(store, source.commit, patches, files)
    tree.write_repository(store, applied, options.tree.resolve(), base.tag)
    show(
        options,
        f"{len(applied.commits)} commits on {base.tag} in {options.tree}\n"
        f"  git -C {options.tree} log --oneline base-{base.tag}..",
    )
    return {
        "base": base.tag,
        "tree": str(options.tree),
        "commit": applied.head,
        "commits": [{"patch": path, "commit": commit} for path, commit in applied.commits],
    }
