# SPDX-License-Identifier: Apache-2.0
"""What a wheel is made from, as far as its record and its bill of materials tell it."""

from __future__ import annotations

from dataclasses import dataclass

from recipe.bases.releases import Archive, Base
from recipe.bases.sources import Source
from recipe.series.topics import Series
from recipe.series.tree import Applied


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a wheel's files are from.

    published: upstream's wheel for the machine. not_carried: changed upstream paths that no wheel
    holds (build scripts), by path. source_tree, tree: git's ids of upstream's files and of the
    patched ones.
    """

    base: Base
    source: Source
    series: Series
    applied: Applied
    published: Archive
    machine: str
    version: str
    not_carried: tuple[str, ...]
    source_tree: str
    tree: str
