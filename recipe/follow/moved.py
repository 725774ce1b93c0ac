# SPDX-License-Identifier: Apache-2.0
"""Which pins moved from one release to the next, and which patches touch the files they are in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from recipe.bases.catalog import canonical
from recipe.bases.releases import Base
from recipe.series.patch import Patch


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A pin that differs from the base before; patches: ours that touch the file it stands in."""

    base: str
    pin: str
    old: str
    new: str
    patches: tuple[str, ...]


def moved(old: Base, new: Base, patches: list[Patch]) -> list[Moved]:
    """Every pin of `new` that isn't what it was in `old`."""
    before = {"torch": old.torch, "cuda": old.cuda, "python": canonical(old.python)}
    after = {"torch": new.torch, "cuda": new.cuda, "python": canonical(new.python)}
    before |= {f"inner.{pin.name}": f"{pin.repository} {pin.pin}" for pin in old.inner}
    after |= {f"inner.{pin.name}": f"{pin.repository} {pin.pin}" for pin in new.inner}
    before["components"], after["components"] = map(" ".join, (old.components, new.components))
    return [
        Moved(
            base=new.tag,
            pin=name,
            old=before.get(name, "none"),
            new=after.get(name, "none"),
            patches=tuple(p.path for p in patches if names_pin(p, name)),
        )
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def names_pin(patch: Patch, pin: str) -> bool:
    """Whether a patch touches the CMake file that declares an inner source."""
    wanted = re.sub(r"\W|_", "", pin.removeprefix("inner."))
    files = [path for path in patch.touched if path.startswith("cmake/external_projects/")]
    return any(re.sub(r"\W|_", "", PurePosixPath(path).stem) == wanted for path in files)
