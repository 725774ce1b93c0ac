# SPDX-License-Identifier: Apache-2.0
"""Read a folder as a tree: what git tracks or would track there, or every file of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from recipe.ground.errors import SourceError
from recipe.ground.log import say
from recipe.objects import foreign
from recipe.objects.gate.names import LARGEST_FILE, LINK, Entry, Gate, escaped


def folder_entries(folder: Path, *, elsewhere: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """The files and links of a folder, in the order of their names; SourceError for any other.

    elsewhere: submodules that the caller reads itself. Others are left out, and that is said.
    """
    gate = Gate(refuse=lambda name, why: refused(folder, name, why))
    names = tracked(folder, elsewhere) if (folder / ".git").exists() else walked(folder)
    return gate.through(entry for name in names if (entry := entry_at(folder, name)) is not None)


def every_entry(folder: Path) -> Iterator[Entry]:
    """Every file and link below a folder, whatever git would say of it."""
    gate = Gate(refuse=lambda name, why: refused(folder, name, why))
    return gate.through(
        entry for name in walked(folder) if (entry := entry_at(folder, name)) is not None
    )


def tracked(folder: Path, elsewhere: frozenset[str]) -> list[str]:
    listing = os.fsdecode(foreign.listed(folder))
    names = []
    for name in sorted(name for name in listing.split("\0") if name):
        path = folder / name
        if not path.is_symlink() and path.is_dir():
            if name not in elsewhere:
                say(f"  left out: {escaped(name)}, which is a repository of its own (a submodule)")
            continue
        names.append(name)
    return names


def walked(folder: Path) -> list[str]:
    """Links to folders are links, and no more than that: what they lead to is not read."""

    def unreadable(error: OSError) -> None:
        raise SourceError(
            f"{folder}: {escaped(str(error.filename))} can't be read: {error.strerror}",
            means="What is in it would be left out.",
            next="mend its permissions, or name another folder",
        )

    names = []
    for root, folders, files in os.walk(folder, onerror=unreadable):
        here = Path(root)
        links = [name for name in folders if (here / name).is_symlink()]
        names += [(here / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(names)


def entry_at(folder: Path, name: str) -> Entry | None:
    """One file or link; None where git knows one that isn't there any more."""
    path = folder / name
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if any((folder / above).is_symlink() for above in list(Path(name).parents)[:-1]):
        # What git has as folder/file, and a link stands in the folder's place now.
        raise refused(folder, escaped(name), "is reached through a link")
    if stat.S_ISLNK(found.st_mode):
        return Entry(path=name, mode=LINK, content=os.fsencode(path.readlink()))
    if not stat.S_ISREG(found.st_mode):
        raise refused(folder, escaped(name), "is a pipe, a socket or a device")
    if found.st_size > LARGEST_FILE:
        raise refused(folder, escaped(name), f"has {found.st_size} bytes")
    # Not os.access: that asks whether this user may run it here, and on this disk.
    mode = "100755" if found.st_mode & stat.S_IXUSR else "100644"
    return Entry(path=name, mode=mode, content=path.read_bytes())


def refused(folder: Path, name: str, why: str) -> SourceError:
    return SourceError(
        f"{folder}: {name} {why}",
        means="Nothing of the folder was kept.",
        next="mend it there, or take the pinned archive: --source sdist",
    )
