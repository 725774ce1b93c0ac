# SPDX-License-Identifier: Apache-2.0
"""Repositories with files: a patched tree to work in, and the one where a rebase stops."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.ground import run
from recipe.objects.git import COMMITTER, ISOLATED, Store, ignore_attributes
from recipe.objects.threeway import MERGE


@dataclass(frozen=True, kw_only=True)
class WorkTree:
    """A repository with a work tree, which a person or a command works in.

    borrowed: the git folder of ours that stands for its own (`foreign.borrowed`).
    """

    root: Path
    borrowed: Path | None = None

    @property
    def env(self) -> dict[str, str]:
        # Both are named: git would look for a repository in the folders above as well.
        git = self.borrowed or self.root / ".git"
        where = {"GIT_DIR": str(git), "GIT_WORK_TREE": str(self.root)}
        return {**ISOLATED, **where}

    def git(self, *args: str) -> bytes:
        return run.output(["git", *args], cwd=self.root, env={**self.env, **COMMITTER})

    def text(self, *args: str) -> str:
        return self.git(*args).decode().strip()


def callers_environment() -> list[str]:
    """An ``env`` command that undoes ours: what follows it has the caller's variables again."""
    ours = (*ISOLATED, "GIT_DIR", "GIT_WORK_TREE")
    kept = [f"{name}={os.environ[name]}" for name in ISOLATED if name in os.environ]
    return ["env", *(word for name in ours for word in ("-u", name)), *kept]


def make_work_repository(store: Store, folder: Path, *, head: str, tags: Mapping[str, str]) -> None:
    """A repository in `folder` with `head` checked out on branch sm12x; tags: commits by name."""
    work = WorkTree(root=folder)
    work.git("init", "--quiet", "--initial-branch=sm12x")
    ignore_attributes(folder / ".git")
    # What came from a git host has no history in the store, and git leaves such refs out.
    how = ["--quiet", "--no-tags", "--update-head-ok", "--update-shallow", "--no-write-fetch-head"]
    work.git("fetch", *how, str(store.path), f"{head}:refs/heads/sm12x")
    work.git("reset", "--hard", "--quiet", "sm12x")
    for tag, commit in tags.items():
        work.git("tag", tag, commit)


def set_template(folder: Path, template: str) -> None:
    """Let commit messages of the repository in `folder` start from `template`."""
    # Relative to the work tree, so that the folder can be moved.
    (folder / ".git" / "commit-template").write_text(template, encoding="utf-8", newline="")
    work = WorkTree(root=folder)
    work.git("config", "commit.template", ".git/commit-template")
    work.git("config", "core.commentChar", "#")


def check_out(store: Store, folder: Path, commit: str) -> WorkTree:
    """A repository in `folder`, which exists, with `commit` checked out.

    Its objects are the store's, so it is there in a second; it is for work that ends soon.
    """
    work = WorkTree(root=folder)
    work.git("init", "--quiet", "--initial-branch=sm12x")
    alternates = folder / ".git" / "objects" / "info" / "alternates"
    alternates.write_text(f"{store.path / 'objects'}\n", encoding="utf-8")
    ignore_attributes(folder / ".git")
    move_to(work, commit)
    return work


def move_to(work: WorkTree, commit: str) -> None:
    """The commit's files and no other, whatever was there."""
    work.git("checkout", "--quiet", "--force", "-B", "sm12x", commit)
    work.git("clean", "--quiet", "-ffdx")


def leave_conflict(work: WorkTree, change: str) -> None:
    """Bring the change of a commit onto the one that is checked out, as far as it goes.

    Where it doesn't, files have markers and the index its stages, as after any git merge.
    """
    try:
        work.git(*MERGE, "cherry-pick", "--no-commit", change)
    except run.CommandFailed as error:
        if error.returncode != 1:
            raise


def leave_changes(work: WorkTree, tree: str) -> None:
    """The files of a tree as uncommitted changes to what is checked out."""
    work.git("read-tree", "-u", "-m", "HEAD", tree)


def undecided(work: WorkTree) -> list[str]:
    """Paths in conflict that have no markers, as long as nobody has said what becomes of them.

    One side deleted the file and the other changed it, or both changed one that has no lines.
    """
    stages: dict[str, dict[str, str]] = {}
    for row in work.git("ls-files", "--unmerged", "-z").split(b"\0")[:-1]:
        entry, _, path = os.fsdecode(row).partition("\t")
        _, blob, stage = entry.split()
        stages.setdefault(path, {})[stage] = blob
    return [
        path
        for path, blobs in stages.items()
        if not {"2", "3"} <= set(blobs)
        or any(b"\0" in work.git("cat-file", "blob", blobs[side]) for side in "23")
    ]


def untracked(work: WorkTree) -> list[str]:
    """Files that git neither knows nor ignores."""
    listing = work.git("ls-files", "--others", "--exclude-standard", "-z")
    return [os.fsdecode(path) for path in listing.split(b"\0")[:-1]]


def marked(work: WorkTree, paths: tuple[str, ...]) -> list[str]:
    """path:line of each conflict marker that is still in one of the files."""
    found = []
    for path in paths:
        file = work.root / path
        lines = file.read_bytes().split(b"\n") if file.is_file() else []
        found += [
            f"{path}:{number}"
            for number, line in enumerate(lines, 1)
            if line.startswith((b"<<<<<<< ", b">>>>>>> "))
        ]
    return found


def take_tree(store: Store, work: WorkTree) -> str:
    """What stands in the work tree, of the files that git knows, as a tree of the store."""
    work.git("add", "--update")
    tree = work.text("write-tree")
    commit = work.text("commit-tree", tree, "-m", "as resolved")
    work.git("update-ref", "refs/sm12x/resolved", commit)
    address = str(work.root.resolve())
    store.git("fetch", "--quiet", address, "+refs/sm12x/resolved:refs/sm12x/resolved-last")
    return tree
