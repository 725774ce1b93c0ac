# SPDX-License-Identifier: Apache-2.0
"""The compiled extensions of a wheel, and what the series asks of them that this wheel lacks.

This recipe reuses upstream's published binaries, by pinned hash. Where a patch changes what only a
compile can carry, the component is named stale: its reason goes into the plan, the report and the
record inside the wheel, so that nobody takes the wheel for more than it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from recipe.errors import UsageError
from recipe.patch import Patch


class Action(StrEnum):
    REUSE = "reuse"  # the published binary is what the patched tree would give
    STALE = "stale"  # the published binary goes in, without what the series changes


@dataclass(frozen=True, kw_only=True)
class Component:
    """A compiled extension by the name of its CMake target; files are members of the wheel."""

    name: str
    files: tuple[str, ...]
    action: Action
    why: str


def check_choice(native: str) -> None:
    """--native auto and none reuse every binary; what asks for a compile is refused."""
    if native in ("auto", "none"):
        return
    raise UsageError(
        f"--native {native}: this version of the recipe compiles nothing",
        means="auto and none take every component from upstream's published wheel and say which of "
        "them are stale because of the series.",
        next="python build.py build --native auto ...",
    )


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
