# SPDX-License-Identifier: Apache-2.0
"""The verb lint: headers, order, form and due conditions."""

from __future__ import annotations

import argparse
from typing import Any

from recipe.bases.releases import load_bases
from recipe.cli.answers import show
from recipe.cli.options import verb
from recipe.ground.project import Project


def add_lint(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "check headers, order, form and due conditions", run_lint)
    parser.add_argument("--stats", action="store_true", help="upstream lines touched on each base")


def run_lint(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from dataclasses import asdict

    from recipe.series.lint import lint

    rows = lint(project, load_bases(project.bases_file))
    lines = [f"{'base':9}{'patches':>8}{'files':>7}{'added':>7}{'removed':>9}"]
    for r in rows:
        lines.append(f"{r.base:9}{r.patches:8}{r.files:7}{r.added:7}{r.removed:9}")
    show(options, "\n".join(lines) if options.stats else "the series is in order")
    return {"touched": [asdict(row) for row in rows]}
