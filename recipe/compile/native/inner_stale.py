# SPDX-License-Identifier: Apache-2.0
"""Which components an inner source makes stale: those of a source that isn't upstream's own."""

from __future__ import annotations

from pathlib import Path

from recipe.bases.releases import Base, InnerPin
from recipe.bases.sources import store_of
from recipe.compile.inner.folders import declared_in
from recipe.compile.inner.given import Shape, shape_of
from recipe.compile.native.wanted import Job
from recipe.compile.stale import Reason
from recipe.ground import run
from recipe.ground.project import Project
from recipe.objects.foreign import NotBorrowed, borrowed
from recipe.objects.repository import WorkTree

# What is named for it must have the pinned version, and without a git host it can't be had else.
VERSIONED = ("cutlass",)


def inner_reasons(project: Project, job: Job) -> list[Reason]:
    """A reason for each component of a source that is lifted, has a series or was named by hand.

    Only for the base's own components: what else is made of a source is no extension.
    """
    found = []
    for one in declared_in(store_of(project), job.applied.head):
        why = " and ".join(whys(job, one.name))
        targets = sorted({*one.targets} & {*job.base.components}) if why else []
        found += [Reason(component=target, why=why) for target in targets]
    return found


def whys(job: Job, name: str) -> list[str]:
    """What makes an inner source another than the one in upstream's wheel."""
    found = []
    own, pin = own_pin(job.base, name), job.base.pin_of(name)
    if own.pin != pin.pin:
        found.append(f"bases.toml lifts {name} from {own.pin[:9]} to {pin.pin[:9]}")
    series = job.inner_series.get(name)
    if series is not None and (series.patches or series.files):
        topics = dict.fromkeys(patch.topic for patch in series.patches)
        found.append(f"the series changes {name} ({', '.join(topics) or 'overlay'})")
    path = job.given.named.get(name)
    if path is not None and name not in VERSIONED and not is_pinned(path, pin):
        found.append(f"--sources names another {name}")
    return found


def own_pin(base: Base, name: str) -> InnerPin:
    return next(pin for pin in base.inner if pin.name == name)


def is_pinned(path: Path, pin: InnerPin) -> bool:
    """Whether what was named by hand is the pinned commit: a bare repository, of which the pin is
    taken, or a work tree that is at it and has no changes."""
    shape = shape_of(path)
    if shape != Shape.CHECKOUT:
        return shape == Shape.BARE
    try:
        with borrowed(path) as own:
            work = WorkTree(root=path, borrowed=own)
            head = work.text("rev-parse", "HEAD")
            pinned = work.text("rev-parse", f"{pin.pin}^{{commit}}")
            changes = work.text("status", "--porcelain", "--ignore-submodules=all")
    except (run.CommandFailed, NotBorrowed):
        return False
    return head == pinned and not changes
