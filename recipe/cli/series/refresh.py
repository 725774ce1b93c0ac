# SPDX-License-Identifier: Apache-2.0
"""The verb refresh: patches written anew, from the commits of a tree."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recipe.bases.releases import load_bases
from recipe.cli.answers import show
from recipe.cli.options import add_upstream, verb
from recipe.ground.project import Project


def add_refresh(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "write patches anew, from the commits of a tree", run_refresh)
    parser.add_argument(
        "patches", nargs="*", metavar="PATCH", help="without a tree: only these, by path or topic"
    )
    parser.add_argument(
        "--tree", type=Path, metavar="DIR", help="a tree that apply or new made, with your commits"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 4 if something would")
    parser.add_argument("--offline", action="store_true", help="use only what the cache holds")
    add_upstream(parser)


def run_refresh(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.ground.errors import UsageError
    from recipe.ground.lock import hold_folder
    from recipe.series.edit import refresh
    from recipe.series.edit.canonical import open_stacks

    if options.tree and options.patches:
        raise UsageError(
            "--tree takes every commit of the tree; no patch can be named beside it",
            next=f"python build.py refresh --tree {options.tree}",
        )
    again = ["--tree", str(options.tree)] if options.tree else options.patches
    stacks = open_stacks(project, load_bases(project.bases_file), offline=options.offline)
    with hold_folder(project.root, project.cache, "the series"):
        if options.tree:
            found = refresh.from_tree(stacks, options.tree, options.upstream)
        else:
            found = refresh.from_files(stacks, options.patches)
        if options.check:
            refresh.check_nothing(found, " ".join(["python build.py refresh", *again]))
        refresh.write(project, found.draft)
    show(options, refresh.as_text(found))
    return refresh.as_json(found)
