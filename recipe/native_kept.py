# SPDX-License-Identifier: Apache-2.0
"""Why a stale component stays as published under ``--native auto``, found out before a compile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from recipe.config import Project
from recipe.errors import SourceError
from recipe.inner import inner_sources
from recipe.inner_find import MissingSource
from recipe.native_build import Job, request_for
from recipe.stale import Reason


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
class Forecast:
    """What a plan knows without fetching anything. kept: by component, why it stays as published.
    unfetched: the source that must be fetched before it can be compiled."""

    kept: Mapping[str, str]
    unfetched: Mapping[str, str]


def forecast(project: Project, job: Job, names: Iterable[str]) -> Forecast:
    """Offline, what isn't at hand stays as published; else a pinned source may still be fetched."""
    gone = absent(project, replace(job, offline=True), names)
    hoped = {} if job.offline else {n: one.source for n, one in gone.items() if one.pinned}
    kept = {name: one.why for name, one in gone.items() if name not in hoped}
    return Forecast(kept=kept, unfetched=hoped)


def names_of(reasons: Iterable[Reason]) -> list[str]:
    return [reason.component for reason in reasons]
