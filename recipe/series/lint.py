# SPDX-License-Identifier: Apache-2.0
"""Check the series as a whole: headers, order, due conditions, the byte form of each patch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recipe.bases.releases import Bases
from recipe.ground.errors import ConfigError
from recipe.ground.project import Project
from recipe.objects.hunks import count_lines
from recipe.series.diff import outside_hunks
from recipe.series.overlay import read_overlay
from recipe.series.patch import Patch, split_diff
from recipe.series.topics import UPSTREAMS, State, check, resolve

FIRST_LINE = b"From " + b"0" * 40 + b" Mon Sep 17 00:00:00 2001\n"


@dataclass(frozen=True, kw_only=True)
class Touched:
    """What the series changes of upstream on one base: patches, files, lines added and removed."""

    base: str
    patches: int
    files: int
    added: int
    removed: int


def lint(project: Project, bases: Bases) -> tuple[Touched, ...]:
    """ConfigError for the first thing that is wrong; else the lines touched on each base."""
    patches = check(project, bases)
    for patch in patches:
        check_form(patch)
    check_due(patches, bases)
    for upstream in UPSTREAMS:
        read_overlay(project, upstream)
    return tuple(touched(patches, bases, position) for position in range(len(bases.releases)))


def check_form(patch: Patch) -> None:
    """The patch is as ``git format-patch`` writes it with the flags that refresh gives it.

    Then writing it again changes nothing but what was meant, whichever git does it.
    """
    if not patch.content.startswith(FIRST_LINE):
        raise unclean(patch, 1, "the first line isn't format-patch's with --zero-commit")
    head, first_line = split_diff(patch.content)
    for number, line in outside_hunks(patch.content, first_line):
        index = re.match(rb"index ([0-9a-f]+)\.\.([0-9a-f]+)", line)
        if index and {len(index[1]), len(index[2])} != {40}:
            raise unclean(patch, number, "short blob ids: --full-index is missing")
        if line == b"-- ":
            raise unclean(patch, number, "it ends with git's version: --no-signature is missing")
    stat = re.search(rb"^ \d+ files? changed", head, re.MULTILINE)
    if stat:
        number = head.count(b"\n", 0, stat.start()) + 1
        raise unclean(patch, number, "it has a diffstat: --no-stat is missing")


def due(patches: tuple[Patch, ...], bases: Bases) -> tuple[Patch, ...]:
    """The patches that no pinned release needs any more, by their own Drop-When."""
    oldest = bases.releases[0].version
    return tuple(p for p in patches if p.drop_when is not None and oldest >= p.drop_when)


def check_due(patches: tuple[Patch, ...], bases: Bases) -> None:
    for patch in due(patches, bases):
        raise ConfigError(
            f"patches/{patch.path} is due to be dropped: upstream >= {patch.drop_when} holds "
            f"for every pinned base, the oldest is {bases.releases[0].tag}",
            means="Its own header says so (Drop-When).",
            next=f"git rm patches/{patch.path}, and take its line out of series.txt",
        )


def touched(patches: tuple[Patch, ...], bases: Bases, position: int) -> Touched:
    base = bases.releases[position]
    topics = resolve(patches, base)
    chosen = [t.patch for t in topics if t.state == State.APPLIES and t.patch is not None]
    counts = [count_lines(patch.content) for patch in chosen]
    return Touched(
        base=base.tag,
        patches=len(chosen),
        files=len({path for patch in chosen for path in patch.touched}),
        added=sum(added for added, _ in counts),
        removed=sum(removed for _, removed in counts),
    )


def unclean(patch: Patch, line: int, why: str) -> ConfigError:
    return ConfigError(
        f"patches/{patch.path}:{line}: {why}",
        means="Written by another git or with other flags, it would change without a reason.",
        next=f"python build.py refresh {patch.path}",
    )
