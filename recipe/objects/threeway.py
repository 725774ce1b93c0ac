# SPDX-License-Identifier: Apache-2.0
"""Merge a patch's change into another tree, on objects alone: no work tree, no common history."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recipe.ground import run
from recipe.ground.errors import MachineError
from recipe.objects.git import Store
from recipe.objects.hunks import read_hunks

# A file added to a folder that upstream renamed stays where the patch says.
MERGE = ("-c", "merge.directoryRenames=false", "-c", "merge.conflictStyle=merge")


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Where a merge stopped. line is one of the file being patched; 0 if it isn't about lines."""

    path: str
    line: int
    why: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place} ({self.why})"


@dataclass(frozen=True, kw_only=True)
class Merge:
    """The merged tree, with markers where there are conflicts."""

    tree: str
    conflicts: tuple[Conflict, ...]


def merge(store: Store, *, before: str, after: str, stack: str) -> Merge:
    """Bring the change from `before` to `after` (commits or trees) onto `stack`, renames followed.

    git's own merge (ort) does it; it wants commits with a common ancestor, so three are made.
    """
    base = store.commit(store.tree_of(before), None, message="before")
    ours = store.commit(store.tree_of(stack), base, message="stack")
    theirs = store.commit(store.tree_of(after), base, message="after")
    try:
        text = store.git(*MERGE, "merge-tree", "--write-tree", "-z", "--messages", ours, theirs)
    except run.CommandFailed as error:
        if error.returncode != 1:
            raise
        tree = merged_tree(error.stdout)
        found = read_conflicts(store, error.stdout, tree, stack)
        unknown = Conflict(path="?", line=0, why="git names no file")
        return Merge(tree=tree, conflicts=tuple(found or [unknown]))
    return Merge(tree=merged_tree(text), conflicts=())


def merged_tree(text: bytes) -> str:
    """What merge-tree says first. It ends with 1 for a conflict, and so may whatever else."""
    found = re.match(rb"[0-9a-f]{40,64}(?=\0)", text)
    if found is None:
        raise MachineError(
            f"git merge-tree named no tree, but {text[:80]!r}",
            means="So it is unknown whether there is a conflict, and nothing is kept.",
            next="python build.py doctor",
        )
    return found[0].decode()


def read_conflicts(store: Store, text: bytes, tree: str, stack: str) -> list[Conflict]:
    """The conflicts that merge-tree reports: a list of stages, an empty field, then messages."""
    found: list[Conflict] = []
    for kind, paths in told_of(text):
        if not kind.startswith("CONFLICT"):
            continue
        why = kind.removeprefix("CONFLICT (").removesuffix(")")
        if why == "contents":
            found += [
                Conflict(path=paths[0], line=line, why="upstream changed the same lines")
                for line in conflict_lines(store, tree, stack, paths[0])
            ]
        else:
            found.append(Conflict(path=paths[0], line=0, why=EXPLAINED.get(why, why)))
    return found


def told_of(text: bytes) -> list[tuple[str, list[str]]]:
    """The kind of each message and the paths that it is about, at least one."""
    told = []
    with run.understood("git merge-tree"):
        fields = text.decode("utf-8", "surrogateescape").split("\0")
        messages = fields[fields.index("") + 1 :]
        position = 0
        while position < len(messages) - 1 and messages[position].isdigit():
            count = int(messages[position])
            paths = messages[position + 1 : position + 1 + count]
            told.append((messages[position + 1 + count], paths))
            if not paths:
                raise ValueError("a message about no path")
            position += 3 + count
    return told


EXPLAINED = {
    "modify/delete": "upstream has no such file any more",
    "add/add": "upstream has a file of this name now",
    "binary": "a binary file that upstream changed too",
}


def conflict_lines(store: Store, tree: str, stack: str, path: str) -> list[int]:
    """Where in the stack's file each marked conflict begins."""
    diff = store.git("diff", "--unified=0", "--no-renames", stack, tree, "--", path)
    return [
        # A hunk that only adds names the line it stands behind.
        hunk.old_start + index_of_marker(hunk.lines) + (hunk.old_count == 0)
        for hunk in read_hunks(diff)
        if index_of_marker(hunk.lines) >= 0
    ] or [0]


def index_of_marker(lines: tuple[bytes, ...]) -> int:
    """How many lines of the old file stand before the opening marker; -1 without one."""
    before = 0
    for line in lines:
        if re.match(rb"\+<<<<<<< ", line):
            return before
        before += line[:1] in (b"-", b" ")
    return -1
