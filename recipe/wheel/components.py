# SPDX-License-Identifier: Apache-2.0
"""The compiled extensions of a wheel: which are upstream's as published, and what those lack.

Where a patch changes what only a compile can carry and the published binary goes in all the same,
the component is named stale: its reason goes into the plan, the report and the record inside the
wheel, so that nobody takes the wheel for more than it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from recipe.bases.components import component_name
from recipe.series.patch import Patch


class Action(StrEnum):
    REUSE = "reuse"  # the published binary is what the patched tree would give
    STALE = "stale"  # the published binary goes in, without what the series changes
    REBUILD = "rebuild"  # it is compiled from the patched tree


@dataclass(frozen=True, kw_only=True)
class Component:
    """A compiled extension by the name of its CMake target; files are members of the wheel.

    lacks: what upstream's has and one that was compiled here hasn't.
    """

    name: str
    files: tuple[str, ...]
    action: Action
    why: str
    lacks: str = ""


def components(members: Iterable[str], patches: Iterable[Patch]) -> tuple[Component, ...]:
    """The components of a published wheel, each with what the series asks of it, by name."""
    files: dict[str, list[str]] = {}
    for member in members:
        if member.endswith(".so"):
            files.setdefault(component_name(member), []).append(member)
    wanted: dict[str, list[Patch]] = {}
    for patch in patches:
        for name in patch.components:
            wanted.setdefault(name, []).append(patch)
    return tuple(
        component(name, tuple(sorted(files.get(name, ()))), wanted.get(name, []))
        for name in sorted({*files, *wanted})
    )


def component(name: str, files: tuple[str, ...], patches: list[Patch]) -> Component:
    if not patches:
        why = "published binary; no patch changes its compile"
        return Component(name=name, files=files, action=Action.REUSE, why=why)
    topics = " and ".join(patch.topic for patch in patches)
    verb = "changes" if len(patches) == 1 else "change"
    missing = "" if files else "; the published wheel has no such component"
    why = f"{topics} {verb} its compile; this wheel does not contain that{missing}"
    return Component(name=name, files=files, action=Action.STALE, why=why)


# What of the upstream tree is in a wheel: the package, but not what only tests or builds read.
def in_wheel(path: str) -> bool:
    return path.startswith("vllm/") and not re.search(r"\.(cu|cuh|cpp|cc|c|h|hpp|pyx)$", path)
