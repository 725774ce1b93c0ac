# SPDX-License-Identifier: Apache-2.0
"""The verb export: the series of a base for quilt or for git am."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recipe.cli.answers import greet, show
from recipe.cli.options import add_base, add_source, add_upstream, verb
from recipe.cli.series.found import find_series
from recipe.ground.project import Project


def add_export(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "write the series of a base for quilt or for git am", run_export)
    add_base(parser)
    add_source(parser)
    add_upstream(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--quilt", type=Path, metavar="DIR", help="a quilt patches folder")
    target.add_argument("--git", type=Path, metavar="DIR", help="numbered mails for git am")


def run_export(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe.series import export, tree

    series, store, source = find_series(options, project, bases, base)
    applied = tree.apply_all(store, source.commit, series.patches, series.files)
    target: Path = options.quilt or options.git
    write = export.export_quilt if options.quilt else export.export_git
    names = write(store, series, applied, target.resolve())
    # Without --keep-cr git am takes the carriage returns of a file's lines for the mail's.
    am = f"git am -k --keep-cr {target}/*.patch"
    then = f"QUILT_PATCHES={target} quilt push -a" if options.quilt else am
    show(options, f"{len(names)} patches for {base.tag} in {target}\n  {then}")
    return {"base": base.tag, "folder": str(target), "patches": names}
