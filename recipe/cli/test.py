# SPDX-License-Identifier: Apache-2.0
"""The verb test: the suite, and wheels of the bases asked for."""

from __future__ import annotations

import argparse
from typing import Any

from recipe.bases.releases import Bases, load_bases
from recipe.cli.options import add_torch, verb
from recipe.cli.steps import steps
from recipe.ground.project import Project


def add_test(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "run the test suite", run_test)
    parser.add_argument(
        "--base",
        action="append",
        default=[],
        help="also build this base's wheel and test it; may be repeated; all for every base",
    )
    add_torch(parser)
    parser.add_argument(
        "--step",
        action="append",
        default=[],
        choices=tuple(steps([])),
        help="only this step; may be repeated",
    )
    parser.add_argument("pytest", nargs="*", help="after --: what to pass to pytest")


def run_test(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.cli.suite import run_suite

    bases: Bases = load_bases(project.bases_file)
    names = options.base
    if names == ["all"]:
        names = [base.tag for base in bases.releases]
    chosen = [bases.find(name) for name in names]
    return run_suite(
        project,
        bases,
        chosen,
        torch=options.test_torch,
        pytest=options.pytest,
        only=options.step,
    )
