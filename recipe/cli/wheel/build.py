# SPDX-License-Identifier: Apache-2.0
"""The verb build: a tested wheel."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recipe.cli.answers import greet, show
from recipe.cli.options import add_base, add_source, add_target, add_torch, verb
from recipe.cli.wheel.plan import run_plan, warn
from recipe.ground.log import Log
from recipe.ground.project import Project


def add_build(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "make a tested wheel", run_build)
    add_base(parser)
    add_target(parser)
    add_source(parser)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="where the wheel goes")
    parser.add_argument("--no-test", action="store_true", help="don't test the wheel")
    add_torch(parser)
    parser.add_argument(
        "--sign-key",
        type=Path,
        metavar="KEY",
        help="sign the statement beside the wheel with this key of OpenSSH or minisign",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def run_build(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    if options.dry_run:
        return run_plan(options, project)
    bases, base = greet(options, project)
    warn(options)
    from recipe.build import pipeline
    from recipe.build.report import summary
    from recipe.cli.wheel.native import native_options

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
        sign_key=options.sign_key,
    )
    built = pipeline.build(project, bases, base, wanted, Log())
    show(options, summary(built.report, built.wheel))
    return built.report
