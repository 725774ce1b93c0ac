# SPDX-License-Identifier: Apache-2.0
"""Repositories with files: a patched tree to work in, and the one where a rebase stops."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from recipe import run
from recipe.git import ISOLATED, Store, ignore_attributes
from recipe.threeway import MERGE


@dataclass(frozen=True, kw_only=True)
class WorkTree:
    """A repository with a work tree, which a person or a command works in."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        # Both are named: git would look for a repository in the folders above as well.
        where = {"GIT_DIR": str(self.root / ".git"), "GIT_WORK_TREE": str(self.root)}
        return {**ISOLATED, **where}

    def text(self, *args: str) -> str:
        return run.output(["git", *args], cwd=self.root, env=self.env).decode().strip()


def callers_environment() -> list[str]:
    """An ``env`` command that undoes ours: what follows it has the caller's variables again."""
    ours = (*ISOLATED, "GIT_DIR", "GIT_WORK_TREE")
    kept = [f"{name}={os.environ[name]}" for name in ISOLATED if name in os.environ]
    return ["env", *(word for name in ours for word in ("-u", name)), *kept]


def make_work_repository(store: Store, folder: Path, *, base: str, head: str, tag: str) -> None:
    """A repository in `folder` with `head` checked out on branch sm12x and `tag` at the base."""
    import git as gitpython

    repository = gitpython.Repo.init(folder, initial_branch="sm12x")
    ignore_attributes(folder / ".git")
    try:
        with repository.git.custom_environment(**ISOLATED):
            repository.git.fetch(str(store.path), f"{head}:refs/heads/sm12x", update_head_ok=True)
            repository.git.reset("--hard", "--quiet", "sm12x")
            repository.create_tag(tag, ref=base)
    finally:
        repository.close()


def check_out(store: Store, folder: Path, commit: str) -> None:
    """A repository in `folder`, which exists, with `commit` checked out.

    Its objects are the store's, so it is there in a second; it is for work that ends soon.
    """
    git(folder, "init", "--quiet", "--initial-branch=sm12x")
    alternates = folder / ".git" / "objects" / "info" / "alternates"
    alternates.write_text(f"{store.path / 'objects'}\n", encoding="utf-8")
    ignore_attributes(folder / ".git")
    move_to(folder, commit)


def move_to(folder: Path, commit: str) -> None:
    """The commit's files and no other, whatever was there."""
    git(folder, "checkout", "--quiet", "--force", "-B", "sm12x", commit)
    git(folder, "clean", "--quiet", "-ffdx")


def leave_conflict(folder: Path, change: str) -> None:
    """Bring the change of a commit onto the one that is checked out, as far as it goes.

    Where it doesn't, files have markers and the index its stages, as after any git merge.
    """
    try:
        git(folder, *MERGE, "cherry-pick", "--no-commit", change)
    except run.CommandFailed as error:
        if error.returncode != 1:
            raise


def leave_changes(folder: Path, tree: str) -> None:
    """The files of a tree as uncommitted changes to what is checked out."""
    git(folder, "read-tree", "-u", "-m", "HEAD", tree)


def undecided(folder: Path) -> list[str]:
    """Paths that one side deleted and the other changed, as long as nobody has said which."""
    stages: dict[str, set[str]] = {}
    for row in git(folder, "ls-files", "--unmerged", "-z").decode().split("\0")[:-1]:
        entry, _, path = row.partition("\t")
        stages.setdefault(path, set()).add(entry.split()[2])
    return [path for path, seen in stages.items() if not {"2", "3"} <= seen]


def marked(folder: Path, paths: tuple[str, ...]) -> list[str]:
    """path:line of each conflict marker that is still in one of the files."""
    found = []
    for path in paths:
        file = folder / path
        lines = file.read_bytes().split(b"\n") if file.is_file() else []
        found += [
            f"{path}:{number}"
            for number, line in enumerate(lines, 1)
            if line.startswith((b"<<<<<<< ", b">>>>>>> "))
        ]
    return found


def take_tree(store: Store, folder: Path) -> str:
    """What stands in the work tree, files that git knows, as a tree of the store."""
    git(folder, "add", "--update")
    tree = git(folder, "write-tree").decode().strip()
    commit = git(folder, "commit-tree", tree, "-m", "as resolved", env=NOBODY).decode().strip()
    git(folder, "update-ref", "refs/sm12x/resolved", commit)
    store.git("fetch", "--quiet", str(folder), "+refs/sm12x/resolved:refs/sm12x/resolved-last")
    return tree


NOBODY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "vllm-sm12x"), ("EMAIL", "recipe@vllm-sm12x.example"))
}


def git(folder: Path, *args: str, env: dict[str, str] | None = None) -> bytes:
    return run.output(["git", "-C", str(folder), *args], env={**ISOLATED, **(env or {})})


def set_template(folder: Path, template: str) -> None:
    """Let commit messages of the repository in `folder` start from `template`."""
    # Relative to the work tree, so that the folder can be moved.
    (folder / ".git" / "commit-template").write_text(template, encoding="utf-8", newline="")
    work = WorkTree(root=folder)
    work.text("config", "commit.template", ".git/commit-template")
    work.text("config", "core.commentChar", "#")
