# SPDX-License-Identifier: Apache-2.0
"""Why a stale component stays as published under ``--native auto``, found out before a compile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from recipe.bases.components import lost_pythons, pythons_of
from recipe.bases.sources import store_of
from recipe.compile.inner.find import MissingSource
from recipe.compile.inner.folders import inner_sources, scripted_in
from recipe.compile.native.build import request_for
from recipe.compile.native.settle import Evidence, Verdicts
from recipe.compile.native.wanted import Job
from recipe.compile.stale import Reason
from recipe.ground.errors import SourceError
from recipe.ground.log import say
from recipe.ground.project import Project


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A component's source that can't be had. why: in a few words, without this machine's own
    problems. said: the whole of it. pinned: a pinned one, which a fetch may bring."""

    why: str
    said: str
    source: str
    pinned: bool


def absent(project: Project, job: Job, names: Iterable[str]) -> dict[str, Absent]:
    """Those components whose sources can't be had; with `job.offline` no address is asked."""
    found = {}
    for name in names:
        try:
            inner_sources(project, job.applied.head, request_for(job, (name,)))
        except MissingSource as error:
            why = f"{error.source} is missing"
            found[name] = Absent(why=why, said=error.what, source=error.source, pinned=True)
        except SourceError as error:
            # The rest of it is about this machine, and the reason goes into the wheel's record.
            why = error.what.partition(", and ")[0]
            found[name] = Absent(why=why, said=error.what, source="", pinned=False)
    return found


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known before a compile.

    published: the members of upstream's wheel, None where it isn't there. verdicts: what each
    device gets from it. inner: components of an inner source that isn't upstream's. python: what
    compiles. crossing: the machine it is for, if that isn't this one. useless: components of which
    the published code runs on no asked device, for any Python.
    """

    published: tuple[str, ...] | None
    verdicts: Verdicts
    inner: tuple[Reason, ...]
    python: str
    crossing: str
    useless: frozenset[str]


def limits(project: Project, job: Job, setting: Setting, names: Iterable[str]) -> dict[str, str]:
    """By component, what speaks against compiling it here, whatever sources there are."""
    asked = [*names]
    by_script = scripted_in(store_of(project), job.applied.head) if setting.crossing else ()
    found = {}
    for name in asked:
        if name in by_script:
            found[name] = f"upstream's script that compiles it can't cross to {setting.crossing}"
        elif name not in setting.useless and (gone := would_lose(name, setting)):
            found[name] = f"compiled with Python {setting.python} it would be gone for {gone}"
    return found


def would_lose(name: str, setting: Setting) -> str:
    """The Pythons that a compiled component isn't for and the published one is: one compile makes
    a module for one Python, where it isn't for all."""
    before = pythons_of(setting.published or (), name)
    return lost_pythons(before, frozenset({setting.python})) if before else ""


def evidence(
    project: Project, job: Job, setting: Setting, reasons: Sequence[Reason], *, fetch: bool
) -> Evidence:
    """What is stale, and what of it stays as published.

    fetch: get the sources that aren't at hand and say what can't be had, as a build does. A plan
    gets none: offline, what isn't at hand stays as published; else a pinned one may be fetched yet.
    """
    names = [reason.component for reason in reasons]
    kept = limits(project, job, setting, names)
    looked = job if fetch else replace(job, offline=True)
    gone = absent(project, looked, [name for name in names if name not in kept])
    if fetch:
        for one in gone.values():
            say(f"  {one.said}")
    open_yet = not fetch and not job.offline
    hoped = {name: one.source for name, one in gone.items() if open_yet and one.pinned}
    kept |= {name: one.why for name, one in gone.items() if name not in hoped}
    return Evidence(reasons=reasons, kept=kept, unfetched=hoped)
