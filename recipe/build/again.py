# SPDX-License-Identifier: Apache-2.0
"""Build a wheel again from the repository and say how it differs from one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recipe.bases.releases import Bases
from recipe.build import pipeline
from recipe.build.verify import Verdict, named_tag
from recipe.ground import scratch
from recipe.ground.digest import sha256_of
from recipe.ground.log import Log
from recipe.ground.project import Project
from recipe.wheel.read import UNREADABLE, no_wheel, opened
from recipe.wheel.verify.differ import Difference, differences


@dataclass(frozen=True, kw_only=True)
class Again:
    """same: to the byte. differences: member by member; empty and not the same means that only
    the archive differs."""

    same: bool
    differences: tuple[Difference, ...]


def build_again(
    project: Project, bases: Bases, verdict: Verdict, options: pipeline.Options, log: Log
) -> Again:
    """Make the wheel anew, without its tests, in a folder that is gone afterwards."""
    with scratch.folder(project.cache, "again") as folder:
        wanted = replace(options, out=folder / "out", test=False)
        made = pipeline.build(project, bases, verdict.base, wanted, log).wheel
        if sha256_of(made) == verdict.sha256:
            return Again(same=True, differences=())
        with log.stage("differ", "Comparing the two, member by member"):
            return Again(same=False, differences=between(verdict.wheel, made))


def between(here: Path, there: Path) -> tuple[Difference, ...]:
    with opened(here) as mine, opened(there) as other:
        try:
            return differences(mine, other)
        except UNREADABLE as error:
            raise no_wheel(here, str(error)) from None


def asked_native(verdict: Verdict, said: str | None) -> str:
    """What --native a rebuild is given where nobody names one: what the statement beside the wheel
    says, or else what the record names as compiled."""
    if said:
        return said
    if verdict.said.whole:
        return "all"
    return ",".join(sorted(verdict.said.files)) or "none"


def platform_of(verdict: Verdict) -> str:
    """The tag that the wheel is named by, or else its machine."""
    return named_tag(verdict.wheel.name) or verdict.plan.machine


def as_lines(found: Again) -> Sequence[str]:
    """For a person."""
    if found.same:
        return ["rebuilt    the same, to the byte"]
    if not found.differences:
        return ["rebuilt    every member is the same; the archives differ"]
    return ["rebuilt    not the same:"] + [
        f"  {one.how:8}  {one.member}{f' ({one.what})' if one.what else ''}"
        for one in found.differences
    ]
