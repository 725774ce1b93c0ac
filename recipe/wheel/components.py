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
from pathlib import PurePosixPath

from recipe.ground.errors import UsageError
from recipe.series.patch import Patch

# In the name of a module that one Python alone loads.
ONE_PYTHON = re.compile(r"\.cpython-3(\d+)-")


class Action(StrEnum):
    REUSE = "reuse"  # the published binary is what the patched tree would give
    STALE = "stale"  # the published binary goes in, without what the series changes
    REBUILD = "rebuild"  # it is compiled from the patched tree


class Kind(StrEnum):
    """What --native asks for."""

    AUTO = "auto"  # compile what is stale
    NONE = "none"  # reuse every published binary
    ALL = "all"  # upstream's whole build
    NAMED = "named"  # compile these components


@dataclass(frozen=True, kw_only=True)
class Choice:
    """--native: its kind, and the components if it names some."""

    kind: Kind
    names: tuple[str, ...] = ()


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


def parse_choice(text: str, known: Iterable[str]) -> Choice:
    """``auto``, ``none``, ``all`` or names with commas; UsageError for a name nobody knows."""
    if text in (Kind.AUTO, Kind.NONE, Kind.ALL):
        return Choice(kind=Kind(text))
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    possible = sorted(known)
    unknown = [name for name in names if name not in possible]
    if unknown or not names:
        raise UsageError(
            f"--native {text!r}: no such component: {', '.join(unknown) or '(nothing named)'}",
            means=f"There are {', '.join(possible)}.",
            next="python build.py build --native auto ...   # or none, all",
        )
    return Choice(kind=Kind.NAMED, names=names)


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


def component_name(member: str) -> str:
    """The CMake target a shared object comes from."""
    path = PurePosixPath(member)
    if "deep_gemm" in path.parts:
        return "_deep_gemm_C"
    return path.name.split(".", 1)[0]


def pythons_of(members: Iterable[str], component: str) -> frozenset[str] | None:
    """The Pythons (3.12) that a component's shared objects are for; None where one is for all."""
    files = [m for m in members if m.endswith(".so") and component_name(m) == component]
    found = [ONE_PYTHON.search(file) for file in files]
    return frozenset(f"3.{one[1]}" for one in found if one) if all(found) else None


def lost_pythons(before: frozenset[str] | None, after: frozenset[str] | None) -> str:
    """In words, the Pythons that one build of a component serves and another doesn't; or ''."""
    if after is None:
        return ""
    if before is None:
        return f"every Python but {listed(after)}"
    return f"Python {listed(before - after)}" if before - after else ""


def listed(pythons: Iterable[str]) -> str:
    *first, last = sorted(pythons, key=lambda one: int(one.partition(".")[2]))
    return f"{', '.join(first)} and {last}" if first else last


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
