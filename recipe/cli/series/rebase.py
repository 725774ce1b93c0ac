# SPDX-License-Identifier: Apache-2.0
"""The verb rebase: move the series to another release."""

from __future__ import annotations

import argparse
from typing import Any

from recipe.cli.options import add_source, add_upstream, verb
from recipe.ground.project import Project


def add_rebase(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "move the series to another release", run_rebase)
    parser.add_argument("--onto", metavar="BASE", help="the release; pinned first if it isn't yet")
    parser.add_argument(
        "--from", dest="origin", metavar="BASE", help="where the series is known to apply"
    )
    parser.add_argument("--exec", metavar="CMD", help="run in the tree after each patch")
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="PATCH",
        help="take its merge although it does something else than before; may be repeated",
    )
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--continue", dest="resume", action="store_true", help="go on after a stop")
    then.add_argument(
        "--skip",
        nargs="?",
        const="not-needed",
        choices=("upstreamed", "not-needed"),
        help="leave the patch out, because upstream has it or it isn't needed (the default)",
    )
    then.add_argument("--abort", action="store_true", help="give the rebase up")
    add_source(parser)
    add_upstream(parser)


def run_rebase(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.follow.rebase import drive
    from recipe.follow.rebase.checks import Asked

    asked = Asked(
        onto=options.onto,
        origin=options.origin,
        exec=options.exec,
        accept=tuple(options.accept),
        resume=options.resume,
        skip=options.skip,
        abort=options.abort,
        source=options.source,
        offline=options.offline,
        upstream=options.upstream,
    )
    return drive.run_rebase(asked, project)
