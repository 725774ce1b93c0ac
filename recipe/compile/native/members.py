# SPDX-License-Identifier: Apache-2.0
"""Which members of a wheel belong to which component, and what a compile puts in their place."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from recipe.bases.components import component_name, listed, lost_pythons, pythons_of
from recipe.wheel.components import Component

# Packages that upstream's build copies into the wheel whole, with the extension.
VENDORED = "vllm/third_party/"


def with_files(
    components: Iterable[Component],
    published: Iterable[str],
    members: Iterable[str],
    compiled: Mapping[str, Collection[str]],
) -> tuple[Component, ...]:
    """The components with the shared objects that stand for them in the finished wheel.

    published: members of upstream's wheel. members: those of the wheel that ours is made of, which
    upstream's whole build may have made. compiled: by component, members that a compile brings.
    """
    files: dict[str, set[str]] = {}
    kept, before = [*members], [*published]
    brought = {name for names in compiled.values() for name in names}
    for name in {*kept, *brought} - replaced(kept, compiled):
        if name.endswith(".so"):
            files.setdefault(component_name(name), set()).add(name)
    return tuple(
        replace(
            component,
            files=tuple(sorted(files.get(component.name, ()))),
            lacks=lacking(component.name, before, files.get(component.name, set())),
        )
        for component in components
    )


def lacking(name: str, before: Iterable[str], files: Iterable[str]) -> str:
    """Which Pythons no longer have a component, in a sentence; empty where none lost it."""
    after = pythons_of(files, name)
    if not after:  # it is for every Python, or isn't there any more
        return ""
    gone = lost_pythons(pythons_of(before, name), after)
    return f"compiled for Python {listed(after)}, it is gone for {gone}" if gone else ""


def replaced(members: Iterable[str], compiled: Mapping[str, Collection[str]]) -> set[str]:
    """Published members that go because a compile brought others: a component's shared objects,
    and the whole of a package that came with one."""
    ours = {name for names in compiled.values() for name in names}
    packages = {
        f"{VENDORED}{PurePosixPath(name).parts[2]}/"
        for name in ours
        if name.startswith(VENDORED) and name.endswith(".so")
    }
    return {
        name
        for name in members
        if name not in ours
        if (name.endswith(".so") and component_name(name) in compiled)
        or any(name.startswith(package) for package in packages)
    }
