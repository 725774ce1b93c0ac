# SPDX-License-Identifier: Apache-2.0
"""The inner sources a person names: --sources DIR and --sources NAME=PATH."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from recipe.bases.releases import InnerPin
from recipe.compile.inner.git import MAX_DEPTH, repository_name
from recipe.ground import run
from recipe.ground.errors import SourceError, UsageError
from recipe.ground.log import say
from recipe.objects import foreign
from recipe.objects.gate.folder import folder_entries
from recipe.objects.gate.names import SUBMODULE, Entry, escaped, wrong_with
from recipe.objects.gate.tar import tar_entries
from recipe.objects.git import ISOLATED

SUFFIXES = ("", ".git", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


class Shape(StrEnum):
    """What a path is."""

    BARE = "bare repository"
    CHECKOUT = "work tree"
    FOLDER = "folder"
    ARCHIVE = "archive"


@dataclass(frozen=True, kw_only=True)
class Given:
    """Paths by inner name. named: taken as they stand. offered: out of a folder of sources, where
    a repository must have the pinned commit. mirrors: every repository there, by its name.
    """

    named: Mapping[str, Path] = field(default_factory=dict)
    offered: Mapping[str, Path] = field(default_factory=dict)
    mirrors: Mapping[str, Path] = field(default_factory=dict)

    def has(self, pin: InnerPin) -> bool:
        """Whether something was named for a source; what is in it isn't looked at."""
        return (
            pin.name in self.named
            or pin.name in self.offered
            or repository_name(pin.repository) in self.mirrors
        )


def parse_given(options: Sequence[str], known: Collection[str]) -> Given:
    """The --sources of a command line; UsageError for a name or path that means nothing."""
    named: dict[str, Path] = {}
    offered: dict[str, Path] = {}
    mirrors: dict[str, Path] = {}
    for option in options:
        match = re.fullmatch(r"([\w-]+)=(.+)", option)
        if match is None or Path(option).is_dir():
            found, repositories = scan(Path(option), known)
            offered = found | offered
            mirrors = repositories | mirrors
            continue
        if match[1] not in known:
            raise UsageError(
                f"--sources {option}: no inner source is called {match[1]!r}",
                means=f"There are {', '.join(sorted(known))}.",
                next="python build.py plan --sources NAME=PATH ...",
            )
        if not Path(match[2]).exists():
            raise UsageError(
                f"--sources {option}: {match[2]} doesn't exist",
                next="name a folder, a git repository or a tar archive",
            )
        named[match[1]] = Path(match[2]).resolve()
    return Given(named=named, offered=offered, mirrors=mirrors)


def scan(folder: Path, known: Collection[str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """(inner name -> path, repository name -> path) of a folder of sources."""
    if not folder.is_dir():
        raise UsageError(
            f"--sources {folder} is neither a folder nor NAME=PATH",
            next="python build.py build --help",
        )
    folder = folder.resolve()
    candidates = {
        name: [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").exists()]
        for name in known
    }
    if twice := [name for name, paths in candidates.items() if len(paths) > 1]:
        paths = " and ".join(str(path) for path in candidates[twice[0]])
        raise UsageError(f"--sources {folder} has {paths}", next="remove one of them")
    found = {name: paths[0] for name, paths in candidates.items() if paths}
    mirrors = {
        repository_name(path.name): path
        for path in sorted(folder.iterdir())
        if path.is_dir() and shape_of(path) in (Shape.BARE, Shape.CHECKOUT)
    }
    if not found and not mirrors:
        raise UsageError(
            f"--sources {folder} has no inner source",
            means=f"Looked for {', '.join(sorted(known))}, as folders, archives or repositories.",
            next="name another folder, or one source with --sources NAME=PATH",
        )
    return found, mirrors


def shape_of(path: Path) -> Shape:
    if path.is_file():
        return Shape.ARCHIVE
    if (path / ".git").exists():
        return Shape.CHECKOUT
    if (path / "HEAD").is_file() and (path / "objects").is_dir():
        return Shape.BARE
    return Shape.FOLDER


def entries_of(path: Path, subfolder: str) -> Iterator[Entry]:
    """The files as they stand, submodules that are checked out included.

    subfolder: only these, where the path has it; else the path is that folder already.
    """
    if shape_of(path) == Shape.ARCHIVE:
        entries = list(tar_entries(path))
        below = [entry for entry in entries if entry.path.startswith(f"{subfolder}/")]
        if subfolder and below:
            return (replace(one, path=one.path[len(subfolder) + 1 :]) for one in below)
        return iter(entries)
    return checkout_entries(path / subfolder if (path / subfolder).is_dir() else path)


def checkout_entries(folder: Path, depth: int = MAX_DEPTH) -> Iterator[Entry]:
    """A work tree's files, those of its submodules where they would stand."""
    inner = submodule_paths(folder)
    if inner and depth == 0:
        raise SourceError(
            f"{folder} has submodules within submodules, more than {MAX_DEPTH} deep",
            next="name a plain folder with everything in it",
        )
    yield from folder_entries(folder, elsewhere=frozenset(inner))
    for path in inner:
        below = folder / path
        # A link would be read as one by folder_entries; what is behind it is no submodule.
        if below.is_symlink() or not below.is_dir() or not any(below.iterdir()):
            say(f"  left out: {escaped(path)}, a submodule that isn't checked out")
            continue
        for entry in checkout_entries(below, depth - 1):
            yield replace(entry, path=f"{path}/{entry.path}")


def submodule_paths(folder: Path) -> list[str]:
    """Where git has a submodule. .gitmodules alone makes none, but what it names must be a path."""
    if not (folder / ".git").exists():
        return []
    file = folder / ".gitmodules"
    if file.is_file():
        for path in named_by(file):
            if why := wrong_with(path):
                raise SourceError(
                    f"{file}: the submodule path {escaped(path)} {why}",
                    means="Nothing of the work tree was read.",
                    next="mend it, or name a plain folder",
                )
    listing = os.fsdecode(foreign.listed(folder, "--stage"))
    rows = (row.partition("\t") for row in listing.split("\0")[:-1])
    return [path for head, _, path in rows if head.startswith(SUBMODULE)]


def named_by(file: Path) -> list[str]:
    command = ["git", "config", "--file", str(file), "-z", "--get-regexp", r"\.path$"]
    try:
        listing = run.output(command, env=ISOLATED)
    except run.CommandFailed as error:
        if error.returncode == 1:  # it names no path
            return []
        raise SourceError(
            f"{file} can't be read: {error.stderr.strip()}", next="mend it, or name a plain folder"
        ) from None
    return [row.partition("\n")[2] for row in os.fsdecode(listing).split("\0")[:-1]]
