# SPDX-License-Identifier: Apache-2.0
"""The verb doctor: what this machine lacks for which verb."""

from __future__ import annotations

import argparse
from typing import Any

from recipe.cli.answers import show
from recipe.cli.options import verb
from recipe.ground.project import Project


def add_doctor(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "say what this machine lacks for which verb", run_doctor)
    parser.add_argument("--platform", default="auto", help="what wheels are built for: aarch64")
    parser.add_argument(
        "--mend", action="store_true", help="mend the cache: save what is good, drop what isn't"
    )


def run_doctor(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.cli.health import cache
    from recipe.cli.health.machine import examine
    from recipe.compile.toolchain.target import machine_of

    done = cache.mend(project) if options.mend else []
    findings = [*examine(project, machine_of(options.platform)[0]), *cache.examine(project)]
    lines = [*done, *(f"{'ok  ' if f.good else 'LACKS'} {f.name}: {f.detail}" for f in findings)]
    lines += [f"  next: {f.next}" for f in findings if not f.good]
    show(options, "\n".join(lines))
    bad = [f for f in findings if not f.good]
    return {
        "findings": [
            {"name": f.name, "good": f.good, "detail": f.detail, "needed_by": f.needed_by}
            for f in findings
        ],
        "mended": done,
        "exit_code": 8 if bad else 0,
    }
