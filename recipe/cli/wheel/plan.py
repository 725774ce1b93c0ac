# SPDX-License-Identifier: Apache-2.0
"""The verb plan: what build would do, and why."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.cli.answers import greet, show
from recipe.cli.options import add_base, add_source, add_target, verb
from recipe.cli.wheel.hints import other_machine, unread
from recipe.ground.log import say
from recipe.ground.project import Project

if TYPE_CHECKING:
    from recipe.build.plan import Plan


def add_plan(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "print what build would do and why", run_plan)
    add_base(parser)
    add_target(parser)
    add_source(parser)


def run_plan(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    warn(options)
    from recipe.build import plan
    from recipe.cli.wheel.native import native_options
    from recipe.compile.native import fates

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
    settled = fates.settled(project, plan.wanted(made, native), wheel, None)
    show(options, plan.as_text(made, settled))
    return plan.as_json(made, settled)


def warn(options: argparse.Namespace) -> None:
    """Say what of the environment and of this machine the command doesn't go by."""
    for line in unread(os.environ):
        say(line)
    for line in other_machine(options.arch, options.platform, platform.machine()):
        say(line)


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
