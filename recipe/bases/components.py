# SPDX-License-Identifier: Apache-2.0
"""How the compiled extensions of a release are named, and which Pythons each is for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

# In the name of a module that one Python alone loads.
ONE_PYTHON = re.compile(r"\.cpython-3(\d+)-")


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
        return f"every Python but {listed(after)}" if after else "every Python"
    return f"Python {listed(before - after)}" if before - after else ""


def listed(pythons: Iterable[str]) -> str:
    *first, last = sorted(pythons, key=lambda one: int(one.partition(".")[2]))
    return f"{', '.join(first)} and {last}" if first else last
