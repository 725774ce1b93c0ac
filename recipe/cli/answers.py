# SPDX-License-Identifier: Apache-2.0
"""The first line and the last word of a verb."""

from __future__ import annotations

import argparse
import sys

from recipe.bases.releases import Base, Bases, load_bases
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.ground.secret import hidden


def greet(options: argparse.Namespace, project: Project) -> tuple[Bases, Base]:
    """Say at once what the command is about."""
    bases = load_bases(project.bases_file)
    base = bases.find(options.base)
    say(f"{base.tag} ({base.commit}), torch {base.torch}; cache {project.cache}")
    return bases, base


def show(options: argparse.Namespace, text: str) -> None:
    """The answer for a person: on stdout, unless the JSON document goes there."""
    print(hidden(text), file=sys.stderr if options.json else sys.stdout, flush=True)
