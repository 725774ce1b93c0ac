# SPDX-License-Identifier: Apache-2.0
"""The canonical form of a patch: what git writes of its commit on the first base it is for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from recipe.bases.releases import Base, Bases
from recipe.bases.sources import store_of, upstream_source
from recipe.ground.errors import ConfigError
from recipe.ground.project import Project
from recipe.objects.git import Store
from recipe.series.patch import Patch
from recipe.series.topics import Series, series_on
from recipe.series.tree import Applied, apply_all


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """Puts a series, whether it is written yet or not, on any of the pinned bases."""

    project: Project
    bases: Bases
    store: Store
    offline: bool

    def series(self, base: Base, patches: tuple[Patch, ...], upstream: str) -> Series:
        return series_on(self.project, base, patches, upstream)

    def put_on(self, base: Base, patches: tuple[Patch, ...], upstream: str) -> Applied:
        """All that `patches` has for the base; ApplyError if it doesn't go on.

        Without the overlay, which patches don't touch, and which is most of the work.
        """
        source = upstream_source(self.project, base, upstream, source="auto", offline=self.offline)
        series = self.series(base, patches, upstream)
        return apply_all(self.store, source.commit, series.patches, ())

    def canonical(self, patches: tuple[Patch, ...], wanted: Collection[str]) -> dict[str, bytes]:
        """By path, the canonical form of each wanted patch of the series `patches`."""
        groups: dict[tuple[str, str], tuple[Base, list[str]]] = {}
        for patch in patches:
            if patch.path in wanted:
                base = first_base(self.bases, patch)
                group = groups.setdefault((base.tag, patch.upstream), (base, []))
                group[1].append(patch.path)
        found: dict[str, bytes] = {}
        for (_, upstream), (base, paths) in groups.items():
            commits = dict(self.put_on(base, patches, upstream).commits)
            found |= {path: self.store.format_patch(commits[path]) for path in paths}
        return found


def open_stacks(project: Project, bases: Bases, *, offline: bool) -> Stacks:
    return Stacks(project=project, bases=bases, store=store_of(project), offline=offline)


def first_base(bases: Bases, patch: Patch) -> Base:
    for base in bases.releases:
        if patch.bases.contains(base.version):
            return base
    raise ConfigError(
        f"patches/{patch.path}: Bases: {patch.bases} names no pinned release",
        means="There is no tree that it could be written from.",
        next="python build.py bases   # lists the pinned ones; mend Bases, or git rm the patch",
    )
