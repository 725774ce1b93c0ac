# SPDX-License-Identifier: Apache-2.0
"""Write patches anew: in canonical form, or from the commits of a tree.

Everything is known to apply before anything is written. New files come first and series.txt last:
after a kill in between, the series names the file that is in no line of it, and says what to type.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.bases.releases import Base, Bases
from recipe.ground.errors import ApplyError, ConfigError, UsageError
from recipe.ground.project import Project
from recipe.ground.scratch import write_whole
from recipe.series.edit.canonical import Stacks, first_base
from recipe.series.edit.commits import Tree, read_tree
from recipe.series.edit.draft import Action, Draft, Reader, gives
from recipe.series.header import release_text
from recipe.series.patch import Patch, parse_patch
from recipe.series.topics import check, check_patches


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """draft: what is to be written. absent: patches of the tree's base that have no commit."""

    draft: Draft
    absent: tuple[str, ...] = ()


def from_files(stacks: Stacks, names: Collection[str]) -> Refreshed:
    """Each patch, or those named by path or topic, as git writes it of its commit."""
    patches = check(stacks.project, stacks.bases)
    text = stacks.project.series_file.read_text(encoding="utf-8")
    draft = Draft(patches=patches, text=text)
    wanted = {path for name in names for path in chosen(patches, name)}
    draft = in_form(stacks, draft, wanted or {patch.path for patch in patches})
    check_applies(stacks, draft, None)
    return Refreshed(draft=draft)


def chosen(patches: tuple[Patch, ...], name: str) -> list[str]:
    plain = name.removeprefix("patches/")
    found = [patch.path for patch in patches if plain in (patch.path, patch.topic)]
    if not found:
        raise UsageError(
            f"{name} is neither a patch of series.txt nor a topic",
            next="python build.py plan   # lists the topics",
        )
    return found


def from_tree(stacks: Stacks, root: Path, upstream: str) -> Refreshed:
    """The series that the commits of a tree ask for."""
    project, bases, store = stacks.project, stacks.bases, stacks.store
    patches = check(project, bases)
    tree = read_tree(project, bases, store, root, {patch.topic for patch in patches})
    series = stacks.series(tree.base, patches, upstream)
    check_overlay(project, tree, {file.path for file in series.files} | tree.laid, upstream)
    reader = Reader(store=store, bases=bases, tree=tree, here=series.patches, upstream=upstream)
    text = project.series_file.read_text(encoding="utf-8")
    draft = reader.read(Draft(patches=patches, text=text))
    check_headers(project, bases, tree, draft)
    # As the commits are, first: an error then is about what a person wrote.
    check_applies(stacks, draft, tree)
    formed = in_form(stacks, draft, {*draft.origins, *followers(draft)})
    if formed.patches != draft.patches:
        check_applies(stacks, formed, tree)
    check_lands(stacks, formed, tree)
    topics = {commit.topic for commit in tree.commits}
    absent = tuple(patch.path for patch in series.patches if patch.topic not in topics)
    return Refreshed(draft=formed, absent=absent)


def check_overlay(project: Project, tree: Tree, overlay: Collection[str], upstream: str) -> None:
    """No commit may change a file of the overlay, which is kept in overlay/."""
    for commit in tree.commits:
        paths = [change.path for change in commit.changes]
        touched = tree.relaid if commit.topic is None else [p for p in paths if p in overlay]
        for path in touched:
            generated = path in tree.laid and not (project.overlay / upstream / path).exists()
            place = "bases.toml" if generated else f"overlay/{upstream}/{path}"
            raise UsageError(
                f"{commit} changes {path}, a file of the overlay",
                means="A patch is for upstream's files; the overlay's are kept whole.",
                next=f"make the change in {place}, and take it out of the commit: "
                f"git -C {tree.root} rebase -i base-{tree.base.tag}",
            )


def check_headers(project: Project, bases: Bases, tree: Tree, draft: Draft) -> None:
    try:
        check_patches(project, bases, draft.patches)
    except ConfigError as error:
        raise ConfigError(
            error.what,
            means="So it would be with the commits of the tree. Nothing was written. "
            + error.means,
            next=f"mend the trailers: {reworded(tree, draft)}; or {error.next}",
        ) from None


def reworded(tree: Tree, draft: Draft) -> str:
    """How to change the messages of the commits that something is new of."""
    changed = [commit for commit in tree.commits if commit in draft.origins.values()]
    if len(changed) == 1:
        return tree.reword(changed[0])
    return f"git -C {tree.root} rebase -i base-{tree.base.tag}, and reword them"


def followers(draft: Draft) -> set[str]:
    """Patches after a changed one on the same file: their blob ids and line numbers follow."""
    moved: set[str] = set()
    found = set()
    for patch in draft.patches:
        if patch.path in draft.origins:
            moved.update(patch.touched)
        elif moved.intersection(patch.touched):
            found.add(patch.path)
    return found


def in_form(stacks: Stacks, draft: Draft, wanted: Collection[str]) -> Draft:
    """The draft with the wanted patches in canonical form."""
    old = {patch.path: patch.content for patch in draft.patches}
    for path, content in stacks.canonical(draft.patches, wanted).items():
        if content != old[path]:
            draft = draft.with_patch(parse_patch(path, content), Action.WRITTEN, None)
    return draft


def check_applies(stacks: Stacks, draft: Draft, tree: Tree | None) -> None:
    """ApplyError if the series doesn't go on each base that a written patch is for."""
    written = [
        p for p in draft.patches if draft.actions.get(p.path) in (Action.WRITTEN, Action.NEW)
    ]
    failed: list[tuple[Base, ApplyError]] = []
    for base in stacks.bases.releases:
        for upstream in {p.upstream for p in written if p.bases.contains(base.version)}:
            try:
                stacks.put_on(base, draft.patches, upstream)
            except ApplyError as error:
                failed.append((base, error))
    if failed:
        bases = [base for base, _ in failed]
        raise ApplyError(
            f"on {' '.join(base.tag for base in bases)}: {failed[0][1].what}",
            means="The series would not apply on every base that its Bases name. "
            "Nothing was written.",
            next=other_base(stacks.bases, bases, tree),
        )


def other_base(bases: Bases, failed: list[Base], tree: Tree | None) -> str:
    """What to type when a change fits some of the bases only."""
    make = "python build.py apply --base {} --tree DIR, and make the change on that tree"
    if tree is None:
        return make.format(failed[0].tag)
    older = [base for base in failed if base.version < tree.base.version]
    if not older:
        first = failed[0]
        return f"{make.format(first.tag)}, with the trailer Bases: >={release_text(first.version)}"
    after = next(base for base in bases.releases if base.version > older[-1].version)
    return (
        f"{make.format(older[0].tag)}; or leave those bases the patch they have, with the trailer "
        f"Bases: >={release_text(after.version)} in the commit"
    )


def check_lands(stacks: Stacks, draft: Draft, tree: Tree) -> None:
    """A hunk may move, so what was written from another base must still make the same commit."""
    for patch in draft.patches:
        commit = draft.origins.get(patch.path)
        if commit is not None and not gives(stacks.store, patch, commit):
            first = first_base(stacks.bases, patch)
            raise ApplyError(
                f"patches/{patch.path}, written on {first.tag}, isn't {commit} "
                f"on {tree.base.tag}: a hunk finds its place elsewhere",
                means="Nothing was written.",
                next=other_base(stacks.bases, [first], tree),
            )


def write(project: Project, draft: Draft) -> None:
    content = {patch.path: patch.content for patch in draft.patches}
    for path in sorted(draft.actions, key=lambda path: draft.actions[path] != Action.NEW):
        write_whole(project.patches / path, content[path])
    text = draft.text.encode()
    if text != project.series_file.read_bytes():
        write_whole(project.series_file, text)


def check_nothing(refreshed: Refreshed, again: str) -> None:
    """What ``--check`` asks: ApplyError names what would be written."""
    actions = refreshed.draft.actions
    if actions:
        rows = ", ".join(f"patches/{path} ({action})" for path, action in actions.items())
        raise ApplyError(
            f"not as their commits are: {rows}", means="Nothing was written.", next=again
        )


def as_text(refreshed: Refreshed) -> str:
    actions = refreshed.draft.actions
    lines = [f"{action:8} patches/{path}" for path, action in actions.items()]
    lines += [f"no commit for patches/{path}; it is left as it is" for path in refreshed.absent]
    return "\n".join(lines or ["every patch is as its commit is; nothing was written"])


def as_json(refreshed: Refreshed) -> dict[str, Any]:
    draft = refreshed.draft
    return {
        "written": [{"patch": path, "action": action} for path, action in draft.actions.items()],
        "unchanged": [p.path for p in draft.patches if p.path not in draft.actions],
        "absent": list(refreshed.absent),
    }
