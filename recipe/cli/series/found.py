# SPDX-License-Identifier: Apache-2.0
"""The series that a verb works on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from recipe.bases.releases import Base, Bases
from recipe.ground.project import Project

if TYPE_CHECKING:
    from recipe.bases.sources import Source
    from recipe.objects.git import Store
    from recipe.series.topics import Series


def find_series(
    options: argparse.Namespace, project: Project, bases: Bases, base: Base
) -> tuple[Series, Store, Source]:
    """The series on the base, and the source that was asked for, in the store."""
    from recipe.bases import sources
    from recipe.series.topics import resolve_series

    series = resolve_series(project, bases, base, options.upstream)
    source = sources.upstream_source(
        project, base, options.upstream, source=options.source, offline=options.offline
    )
    return series, sources.store_of(project), source
