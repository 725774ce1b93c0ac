# SPDX-License-Identifier: Apache-2.0
"""The verb matrix: what every topic is on every release."""

from __future__ import annotations

import argparse
import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.bases.releases import load_bases
from recipe.cli.answers import show
from recipe.cli.options import add_offline, verb
from recipe.ground.errors import UsageError
from recipe.ground.log import say
from recipe.ground.project import Project

if TYPE_CHECKING:
    from recipe.follow.matrix.table import Matrix


def add_matrix(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "say what every topic is on every release", run_matrix)
    add_offline(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a web page as well")


def run_matrix(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases = load_bases(project.bases_file)
    say(f"{len(bases.releases)} releases; cache {project.cache}")
    from recipe.follow.matrix import store as matrix_store
    from recipe.follow.matrix import text as matrix_text

    found = matrix_store.known_matrix(project, bases, offline=options.offline)
    if options.html is not None:
        write_page(project, found, options.html)
    show(options, matrix_text.as_text(found))
    return matrix_store.as_json(found)


def write_page(project: Project, found: Matrix, path: Path) -> None:
    from recipe.follow.matrix import html as matrix_html
    from recipe.ground import scratch
    from recipe.series import overlay
    from recipe.series import topics as series

    digest = overlay.patchset_digest(project, series.read_series(project), series.UPSTREAMS)
    place = path.resolve()
    try:
        if place.exists() and not place.is_file():
            raise OSError(errno.EEXIST, "it isn't a file")
        scratch.write_whole(place, matrix_html.as_html(found, patchset=digest))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UsageError(
            f"can't write {path}: {error.strerror}",
            means="The matrix itself is computed and stored.",
            next="name another file: python build.py matrix --html FILE",
        ) from error
    say(f"  the page is {path}")
