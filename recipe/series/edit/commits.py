# SPDX-License-Identifier: Apache-2.0
"""Read a tree that `apply` or `new` made: its base, and a commit for each patch on top."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recipe.bases.releases import Base, Bases
from recipe.ground import run
from recipe.ground.errors import ConfigError, UsageError
from recipe.ground.lock import hold
from recipe.ground.project import Project
from recipe.objects.foreign import NotBorrowed, borrowed
from recipe.objects.git import Change, Store
from recipe.objects.repository import WorkTree
from recipe.series.patch import Patch, parse_patch
from recipe.series.tree import LAY

REF = "refs/sm12x/refreshed"


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit above the base. topic: None for the overlay's. changes: to its parent."""

    id: str
    parent: str
    subject: str
    topic: str | None
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return f"commit {self.id[:12]} ({self.subject})"


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What is checked out in `root`, taken into the store.

    laid: the overlay files it was made with. relaid: those that its overlay commit has otherwise.
    """

    root: Path
    base: Base
    commits: tuple[Commit, ...]
    laid: frozenset[str]
    relaid: tuple[str, ...]

    def reword(self, commit: Commit) -> str:
        """How to change this commit's message."""
        if commit == self.commits[-1]:
            return f"git -C {self.root} commit --amend"
        return f"git -C {self.root} rebase -i base-{self.base.tag}, and reword it"


def read_tree(
    project: Project, bases: Bases, store: Store, root: Path, known: Collection[str]
) -> Tree:
    """The base and the commits of a tree that is in order; UsageError says what isn't.

    known: the topics of the series.
    """
    with opened(root) as work:
        return read_opened(project, bases, store, root, work, known)


@contextmanager
def opened(root: Path) -> Iterator[WorkTree]:
    """The tree, read without what its configuration would have git run."""
    try:
        with borrowed(root.resolve()) as git:
            yield WorkTree(root=root.resolve(), borrowed=git)
    except NotBorrowed as error:
        raise UsageError(
            f"--tree {root} is not a git repository with commits",
            means=error.what,
            next="python build.py apply --base B --tree DIR   # makes one in a new folder",
        ) from None


def read_opened(
    project: Project,
    bases: Bases,
    store: Store,
    root: Path,
    work: WorkTree,
    known: Collection[str],
) -> Tree:
    base = base_of(work, root, bases)
    check_finished(work, root, base, known)
    assert work.borrowed is not None
    with hold(project.cache / "locks" / "store.lock", "the object store"):
        head = store.fetch_tree(work.borrowed, REF)
    start = work.text("rev-parse", f"refs/tags/base-{base.tag}^{{commit}}")
    rows = store.text("rev-list", "--reverse", "--topo-order", "--parents", f"{start}..{head}")
    commits = [read_commit(store, *row.split()) for row in rows.splitlines()]
    laid, relaid = read_overlay(work, root, base, commits)
    tree = Tree(root=root, base=base, commits=tuple(commits), laid=laid, relaid=relaid)
    for commit in commits:
        if commit.topic is None and commit.subject != LAY:
            raise UsageError(
                f"{commit} has no Topic",
                means="Every commit above the base is a patch, or a part of one: its message ends "
                "with the trailers that docs/concepts/series.md describes.",
                next=f"{tree.reword(commit)}, to add the trailers; or, if it belongs to another "
                f"commit, git -C {root} rebase -i base-{base.tag}, and make it a fixup of that one",
            )
    return tree


def read_overlay(
    work: WorkTree, root: Path, base: Base, commits: list[Commit]
) -> tuple[frozenset[str], tuple[str, ...]]:
    """The paths that were laid, and those that the overlay's commit has changed since."""
    commit = next((one for one in commits if one.topic is None and one.subject == LAY), None)
    if commit is None:
        return frozenset(), ()
    tag = f"refs/tags/overlay-{base.tag}"
    if not work.text("for-each-ref", tag):
        raise UsageError(
            f"{root} has an overlay, and no tag overlay-{base.tag} to say what was laid",
            next=f"git -C {root} tag overlay-{base.tag} {commit.id[:12]}   "
            "# if that commit is as it was made",
        )
    listed = [
        set(work.text("diff-tree", "-r", "--no-renames", f"{one}^", one).splitlines())
        for one in (tag, commit.id)
    ]
    laid, now = ({line.partition("\t")[2]: line for line in lines} for lines in listed)
    differ = (path for path in {**laid, **now} if laid.get(path) != now.get(path))
    return frozenset(laid), tuple(sorted(differ))


def base_of(work: WorkTree, root: Path, bases: Bases) -> Base:
    try:
        tags = work.text("tag", "--list", "--merged", "HEAD", "base-v*").splitlines()
    except (run.CommandFailed, OSError) as error:
        raise UsageError(
            f"--tree {root} is not a git repository with commits",
            means=str(getattr(error, "stderr", error)).strip(),
            next="python build.py apply --base B --tree DIR   # makes one in a new folder",
        ) from None
    if len(tags) != 1:
        raise UsageError(
            f"--tree {root} has {len(tags)} tags base-v* below what is checked out "
            f"({' '.join(tags) or 'none'}); one says which base it is of",
            next="python build.py apply --base B --tree DIR   # makes such a tree",
        )
    return bases.find(tags[0].removeprefix("base-"))


def check_finished(work: WorkTree, root: Path, base: Base, known: Collection[str]) -> None:
    for name in ("rebase-merge", "rebase-apply"):
        if (work.root / work.text("rev-parse", "--git-path", name)).exists():
            raise UsageError(
                f"a rebase is under way in {root}",
                means="What is checked out is not the whole of it.",
                next=f"git -C {root} rebase --continue",
            )
    changed = work.text("status", "--porcelain", "--ignore-submodules=all").splitlines()
    if changed:
        raise UsageError(
            f"{root} has changes in no commit: {', '.join(line.strip() for line in changed[:5])}",
            means="A patch is what its commit says.",
            next=f"git -C {root} add -A, then {into_its_commit(work, root, base, known)}; "
            "or git stash -u what isn't meant",
        )


def into_its_commit(work: WorkTree, root: Path, base: Base, known: Collection[str]) -> str:
    """How an edit comes into the commit that it belongs to.

    Only what a person has begun is amended. The last commit may as well be another topic's patch,
    which the edit would go into.
    """
    message = work.git("log", "-1", "--format=%B").decode("utf-8", "replace")
    topic = re.search(r"^Topic: *(.*\S)", message.rstrip("\n").rsplit("\n\n", 1)[-1], re.MULTILINE)
    if topic is not None and topic[1] not in known:
        return f"git -C {root} commit --amend"
    return (
        f"git -C {root} commit for a patch of its own, or for one that is there "
        f"git -C {root} commit --fixup COMMIT and "
        f"git -C {root} rebase -i --autosquash base-{base.tag}"
    )


def single_blanks(store: Store, commit: str, parent: str) -> str:
    """The commit with single blanks in its subject; itself if it has no others.

    git am makes one of each run of them, so a patch file can't hold more.
    """
    text = store.git("log", "-1", "--format=%B", commit).decode("utf-8", "surrogateescape")
    first, line_break, rest = text.removesuffix("\n").partition("\n")
    subject = re.sub(r"[ \t]{2,}|\t", " ", first.strip(" \t"))
    if subject == first:
        return commit
    author, _, date = store.text("log", "-1", "--format=%an <%ae>%n%ad", commit).partition("\n")
    message = subject + line_break + rest
    return store.commit(store.tree_of(commit), parent, message=message, author=author, date=date)


def read_commit(store: Store, commit: str, *parents: str) -> Commit:
    subject, _, message = store.text("log", "-1", "--format=%s%n%B", commit).partition("\n")
    if len(parents) != 1:
        raise UsageError(
            f"commit {commit[:12]} ({subject}) is a merge",
            means="A patch has one parent: the patch before it.",
            next="make the branch a line, with git rebase",
        )
    commit = single_blanks(store, commit, parents[0])
    paragraph = message.rstrip("\n").rsplit("\n\n", 1)[-1]
    topic = re.search(r"^Topic: *(.*\S)", paragraph, re.MULTILINE)
    return Commit(
        id=commit,
        parent=parents[0],
        subject=subject,
        topic=topic[1] if topic else None,
        changes=store.changes(parents[0], commit),
    )


def patch_of(store: Store, tree: Tree, commit: Commit, path: str) -> Patch:
    """The commit as the patch that patches/`path` would hold; ConfigError names the commit."""
    if not commit.changes:
        raise ConfigError(
            f"{commit} changes nothing",
            means="Nothing was written.",
            next=f"git -C {tree.root} rebase -i base-{tree.base.tag}, and drop it",
        )
    try:
        return parse_patch(path, store.format_patch(commit.id))
    except ConfigError as error:
        # What is wrong stands in a commit, not in the file that the parser was told.
        why = error.what.removeprefix(f"patches/{path}:").partition(": ")[2]
    raise ConfigError(f"{commit}: {why}", means="Nothing was written.", next=tree.reword(commit))
