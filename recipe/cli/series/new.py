# SPDX-License-Identifier: Apache-2.0
"""The verb new: a tree to edit, and a message to fill in."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recipe.cli.answers import greet, show
from recipe.cli.options import add_base, add_source, add_upstream, verb
from recipe.cli.series.found import find_series
from recipe.ground.project import Project


def add_new(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "start a patch: a tree to edit, and a message to fill in", run_new)
    parser.add_argument(
        "topic", metavar="TOPIC", help="what it is about: small-letters-and-hyphens"
    )
    add_base(parser)
    add_source(parser)
    parser.add_argument("--tree", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--after", metavar="PATCH", help="the patch it goes on (default: all)")
    add_upstream(parser)


def run_new(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe.series.edit import start
    from recipe.series.topics import read_series

    start.check_topic(read_series(project), options.topic)
    series, store, source = find_series(options, project, bases, base)
    started = start.start(
        store,
        bases,
        base,
        series,
        source.commit,
        topic=options.topic,
        after=options.after,
        target=options.tree.resolve(),
    )
    then = [
        f"cd {options.tree}   # edit; new files with the behaviour go into overlay/",
        "git add -A && git commit   # the message starts from the trailers",
        f"write {started.test}, and name it in Tests   # if it is to be tested",
        f"python build.py refresh --tree {options.tree}",
    ]
    where = f"after {started.after}" if started.after else "on upstream itself"
    show(options, "\n  ".join([f"{options.topic} starts on {base.tag}, {where}", *then]))
    return {
        "base": base.tag,
        "topic": options.topic,
        "tree": str(options.tree),
        "after": started.after,
        "commit": started.applied.head,
        "next": then,
    }
