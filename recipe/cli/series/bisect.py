# SPDX-License-Identifier: Apache-2.0
"""The verb bisect: the patch that makes a command fail."""

from __future__ import annotations

import argparse
from typing import Any

from recipe.cli.answers import greet, show
from recipe.cli.options import add_base, add_source, verb
from recipe.cli.series.found import find_series
from recipe.ground.project import Project


def add_bisect(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "find the patch that makes a command fail", run_bisect)
    add_base(parser)
    add_source(parser)
    parser.add_argument(
        "--test",
        required=True,
        metavar="CMD",
        help="what sh runs in the tree: 0 is good, 125 can't be judged, anything else is bad",
    )
    parser.set_defaults(upstream="vllm")


def run_bisect(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe.follow import bisect

    series, store, source = find_series(options, project, bases, base)
    verdict = bisect.bisect(project, store, base, series, source.commit, options.test)
    show(options, bisect.as_text(verdict))
    return bisect.as_json(verdict)
