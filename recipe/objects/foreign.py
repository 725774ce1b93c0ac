# SPDX-License-Identifier: Apache-2.0
"""Somebody else's repository, read without its configuration: that names programs git would run.

What fsmonitor, a filter, a text conversion or a promisor remote name is run by a plain `git status`
or `git ls-files`. So git gets a repository of ours that borrows the other's objects.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recipe.ground import run
from recipe.ground.errors import UsageError
from recipe.objects.settings import ISOLATED

# What a repository is, besides its objects: who points where, and what is said of paths.
TAKEN = ("HEAD", "index", "packed-refs", "shallow", "info/exclude", "info/attributes")
UNDER_WAY = ("rebase-merge", "rebase-apply")
# Settings that only say how files lie on this disk.
HARMLESS = (
    "core.autocrlf",
    "core.eol",
    "core.filemode",
    "core.ignorecase",
    "core.precomposeunicode",
    "core.symlinks",
)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a work tree's own files of git are, and those that it shares with other work trees."""

    own: Path
    common: Path


def places_of(root: Path) -> Places:
    """Read from the files alone; UsageError where there is no repository that can be borrowed."""
    git = root / ".git"
    try:
        if git.is_file():
            text = git.read_text(encoding="utf-8")
            git = root / text.removeprefix("gitdir:").strip()
        if not (git / "HEAD").is_file():
            raise refused(root, "is not a git repository")
        shared = git / "commondir"
        common = git / shared.read_text(encoding="utf-8").strip() if shared.is_file() else git
        by_table, whole = (common / "reftable").is_dir(), str(common.resolve())
    except (OSError, UnicodeError, ValueError) as error:
        raise refused(root, f"can't be read as a git repository: {error}") from None
    if by_table:
        raise refused(root, "keeps its refs in a table", "git refs migrate --ref-format=files")
    if "\n" in whole:
        raise refused(root, "has a line break in its path")
    return Places(own=git, common=common)


class NotBorrowed(UsageError):
    """A folder is no repository, or one that can't be borrowed."""


def refused(root: Path, why: str, then: str = "name another folder") -> NotBorrowed:
    return NotBorrowed(f"{root} {why}", means="Nothing was read from it.", next=then)


@contextmanager
def borrowed(root: Path) -> Iterator[Path]:
    """The git folder of a repository of ours with the objects, refs and index of `root`'s."""
    places = places_of(root)
    with tempfile.TemporaryDirectory(prefix="vllm-sm12x-borrowed-") as folder:
        run.output(["git", "init", "--quiet", folder], env={**ISOLATED, "GIT_TEMPLATE_DIR": ""})
        git = Path(folder) / ".git"
        (git / "info").mkdir(exist_ok=True)
        copy_refs(places, git)
        lines = f"{(places.common / 'objects').resolve()}\n"
        (git / "objects" / "info").mkdir(exist_ok=True)
        (git / "objects" / "info" / "alternates").write_text(lines, encoding="utf-8")
        for name, value in settings_of(places.common):
            run.output(["git", "config", name, value], env={**ISOLATED, "GIT_DIR": str(git)})
        yield git


def copy_refs(places: Places, git: Path) -> None:
    for name in TAKEN:
        for place in (places.own, places.common):
            if (place / name).is_file():
                shutil.copyfile(place / name, git / name)
                break
    for index in places.own.glob("sharedindex.*"):
        shutil.copyfile(index, git / index.name)
    for path in (places.common / "refs").rglob("*"):
        if path.is_file() and not path.is_symlink():
            target = git / path.relative_to(places.common)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for name in UNDER_WAY:
        if (places.own / name).exists():
            (git / name).mkdir()


def settings_of(common: Path) -> list[tuple[str, str]]:
    """The harmless settings of a repository's configuration; a file is read, and no other."""
    command = ["git", "config", "--file", str(common / "config"), "--no-includes", "--list", "-z"]
    try:
        listing = run.output(command, env=ISOLATED).decode(errors="replace")
    except run.CommandFailed as error:
        raise refused(common, f"has a configuration that git can't read: {error.stderr}") from None
    rows = [row.partition("\n") for row in listing.split("\0")[:-1]]
    if any(name == "extensions.objectformat" and value != "sha1" for name, _, value in rows):
        raise refused(common, "names its objects by another hash than SHA-1")
    plain = re.compile(r"[\w.-]{0,20}")
    return [(n, v) for n, _, v in rows if n in HARMLESS and plain.fullmatch(v)]


KEPT = ("--cached", "--others", "--exclude-standard", "--deduplicate")


def listed(folder: Path, *options: str) -> bytes:
    """What git tracks or would track in a work tree, each name with a NUL after it.

    options: others than these for git ls-files.
    """
    with borrowed(folder) as git:
        env = {**ISOLATED, "GIT_DIR": str(git), "GIT_WORK_TREE": str(folder)}
        return run.output(["git", "ls-files", "-z", *(options or KEPT)], cwd=folder, env=env)
