# SPDX-License-Identifier: Apache-2.0
"""Which members of a wheel belong to which component, and what a compile puts in their place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from recipe.native import Component, component_name
from recipe.native_stage import Native

# Packages that upstream's build copies into the wheel whole, with the extension.
VENDORED = "vllm/third_party/"


def with_files(
    components: Iterable[Component], members: Iterable[str], native: Native
) -> tuple[Component, ...]:
    """The components with the shared objects that stand for them in the finished wheel."""
    files: dict[str, set[str]] = {}
    kept = [*members]
    for name in {*kept, *native.binaries} - replaced(kept, native):
        if name.endswith(".so"):
            files.setdefault(component_name(name), set()).add(name)
    return tuple(
        replace(component, files=tuple(sorted(files.get(component.name, ()))))
        for component in components
    )


def replaced(members: Iterable[str], native: Native) -> set[str]:
    """Published members that go because a compile brought others: a component's shared objects,
    and the whole of a package that came with one."""
    ours = native.binaries
    rebuilt = set(native.rebuilt.files) if native.rebuilt else set()
    packages = {
        f"{VENDORED}{PurePosixPath(name).parts[2]}/"
        for name in ours
        if name.startswith(VENDORED) and name.endswith(".so")
    }
    return {
        name
        for name in members
        if name not in ours
        if (name.endswith(".so") and component_name(name) in rebuilt)
        or any(name.startswith(package) for package in packages)
    }
