# SPDX-License-Identifier: Apache-2.0
"""Put the series and the overlay on a base: exactly, all or nothing, one commit a patch.

It happens on a temporary index of the object store, so a failure leaves nothing behind. Author and
date are the patch's and the committer is fixed: the same inputs give the same commit ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recipe.ground import run, scratch
from recipe.ground.errors import ApplyError, UsageError
from recipe.objects.gate.trees import check_tree
from recipe.objects.git import Change, DoesNotApply, Store
from recipe.objects.repository import make_work_repository, set_template
from recipe.series.overlay import OverlayFile
from recipe.series.patch import Patch

# The overlay's commit: what it is called in Applied.commits, and its subject.
OVERLAY = "overlay"
LAY = "Lay the overlay"


@dataclass(frozen=True, kw_only=True)
class Applied:
    """The patched tree. commits: (patch path, commit id) in order; changes: base to head."""

    base: str
    head: str
    commits: tuple[tuple[str, str], ...]
    changes: tuple[Change, ...]


def apply_all(
    store: Store,
    base: str,
    patches: tuple[Patch, ...],
    files: tuple[OverlayFile, ...],
    *,
    overlay_first: bool = False,
) -> Applied:
    """Apply every patch, then lay the overlay; ApplyError names the file and line that failed.

    overlay_first: lay it on upstream's tree, so that every patch has the files that it calls.
    """
    head = base
    commits: list[tuple[str, str]] = []
    steps: list[Patch | None] = [*patches]
    if files:
        steps.insert(0 if overlay_first else len(steps), None)
    with store.index(base) as index:
        for patch in steps:
            if patch is None:
                lay(store, index, head, files)
            else:
                apply_one(store, index, patch)
            tree = store.git("write-tree", index=index).decode().strip()
            if patch is None:
                head = store.commit(tree, head, message=f"{LAY}\n")
            else:
                head = store.commit(
                    tree, head, message=patch.message, author=patch.author, date=patch.date
                )
            commits.append((OVERLAY if patch is None else patch.path, head))
    check_tree(store, head, unfit)
    return Applied(base=base, head=head, commits=tuple(commits), changes=store.changes(base, head))


def unfit(name: str, why: str) -> ApplyError:
    """A patch can change what a link of upstream's points to, and name a file beside another."""
    return ApplyError(
        f"in the patched tree {name} {why}",
        means="Nothing was applied or built.",
        next=f"grep -rnF {name} patches overlay, and mend what makes it",
    )


def apply_one(store: Store, index: Path, patch: Patch) -> None:
    try:
        store.apply(patch.content, index)
    except DoesNotApply as no:
        raise ApplyError(
            f"patches/{patch.path} doesn't apply: {'; '.join(no.lines)}",
            means="Its context must match exactly. Nothing was applied or built.",
            next=f"python build.py apply --until {patch.path} --tree DIR, "
            "then mend the patch against that tree",
        ) from None


def lay(store: Store, index: Path, head: str, files: tuple[OverlayFile, ...]) -> None:
    for file in files:
        if store.has_path(head, file.path):
            raise ApplyError(
                f"the overlay file {file.path} exists upstream",
                means="The overlay holds new files only; laying this one would hide upstream's.",
                next=f"git mv the overlay file to another name, or patch upstream's {file.path}",
            )
        blob = store.git("hash-object", "-w", "--stdin", stdin=file.content).decode().strip()
        entry = f"{file.mode},{blob},{file.path}"
        try:
            store.git("update-index", "--add", "--cacheinfo", entry, index=index)
        except run.CommandFailed as error:
            # A folder of the file's path is a file upstream, or the other way round.
            raise ApplyError(
                f"the overlay file {file.path} can't be laid: {error.stderr.strip()}",
                means="Nothing was applied or built.",
                next=f"git mv the overlay file {file.path} to another name",
            ) from None


def until(
    patches: tuple[Patch, ...], name: str | None, option: str = "--until"
) -> tuple[Patch, ...]:
    """The patches before `name`, which is left out: the tree that it must apply to."""
    if name is None:
        return patches
    wanted = name.removeprefix("patches/")
    for position, patch in enumerate(patches):
        if wanted in (patch.path, patch.topic):
            return patches[:position]
    raise UsageError(
        f"{option} {name}: no such patch applies on this base",
        next="python build.py plan   # lists the patches that do",
    )


def through(patches: tuple[Patch, ...], name: str | None) -> tuple[Patch, ...]:
    """The patches up to `name`, which is the last of them."""
    before = until(patches, name, "--after")
    return patches[: len(before) + (name is not None)]


def write_repository(
    store: Store, applied: Applied, target: Path, tag: str, template: str = ""
) -> None:
    """The patched tree as a git repository in `target`, which must not exist or be empty.

    tag: the base's; ``base-`` it is upstream's commit, ``overlay-`` it the overlay's.
    template: what its commit messages start from.
    """
    overlay = dict(applied.commits).get(OVERLAY)
    tags = {f"base-{tag}": applied.base} | ({f"overlay-{tag}": overlay} if overlay else {})
    with scratch.whole(target, "--tree") as folder:
        make_work_repository(store, folder, head=applied.head, tags=tags)
        if template:
            set_template(folder, template)
