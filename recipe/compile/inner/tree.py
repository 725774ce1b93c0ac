# SPDX-License-Identifier: Apache-2.0
"""Source trees in the cache, each in a folder that is named by the hash of what is in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from recipe.ground import scratch
from recipe.ground.errors import SourceError
from recipe.ground.lock import hold
from recipe.ground.project import Project
from recipe.ground.run import disk_full
from recipe.objects.gate.folder import every_entry
from recipe.objects.gate.names import Entry
from recipe.objects.ids import tree_id


def write_entries(entries: Iterable[Entry], folder: Path) -> None:
    for entry in entries:
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.mode == "120000":
            path.symlink_to(entry.content.decode())
        else:
            path.write_bytes(entry.content)
            path.chmod(int(entry.mode, 8) & 0o777)


def materialise(project: Project, name: str, identity: str, write: Callable[[Path], None]) -> Path:
    """The folder cache/inner/NAME/IDENTITY, written by `write` unless it is there and whole.

    A folder whose content isn't what its name says was changed by a build or by hand: it is
    written anew. So what CMake is given is what the record names.
    """
    target = project.cache / "inner" / name / identity
    with hold(project.cache / "locks" / f"inner-{name}-{identity[:16]}.lock", f"{name}'s source"):
        if target.is_dir() and holds(target, identity):
            return target
        with scratch.folder(project.cache, "inner") as place:
            made = place / "tree"
            made.mkdir()
            try:
                write(made)
            except OSError as error:
                raise disk_full(project.cache, f"{name}'s source: {error}") from None
            found = tree_id(every_entry(made))
            if found != identity:
                raise SourceError(
                    f"{name}'s source is tree {found} on the disk, and {identity} was expected",
                    means="A file system that loses modes or links can't hold a source tree.",
                    next="put the cache on another disk: SM12X_CACHE=DIR python build.py ...",
                )
            if target.exists():
                target.rename(place / "replaced")
            target.parent.mkdir(parents=True, exist_ok=True)
            made.rename(target)
    return target


def holds(folder: Path, identity: str) -> bool:
    """Whether a folder is the tree that its name says."""
    try:
        return tree_id(every_entry(folder)) == identity
    except SourceError:
        return False  # a build or a hand has put something into it that no tree has


def working_copy(source: Path, target: Path) -> Path:
    """A copy to build in: DeepGEMM's setup.py writes into its own folder."""
    shutil.rmtree(target, ignore_errors=True)
    temporary = target.with_name(f".{target.name}.half-written")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, symlinks=True)
    temporary.rename(target)
    return target
