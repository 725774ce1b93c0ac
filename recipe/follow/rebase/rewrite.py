# SPDX-License-Identifier: Apache-2.0
"""What a finished rebase writes: patch files, their headers and the lines of series.txt.

All of it is made and checked before the first file is touched; then it is written from a copy in
.rebase/, so that a rebase killed while it writes goes on writing.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from recipe.follow.outcome import Outcome
from recipe.follow.rebase import state as rebase_state
from recipe.follow.rebase.advance import Rebase, inputs, read
from recipe.follow.rebase.state import State, Step
from recipe.ground.errors import ApplyError, ConfigError
from recipe.ground.lock import hold_folder
from recipe.ground.project import Project
from recipe.ground.scratch import write_whole
from recipe.series import header
from recipe.series.file import insert_after
from recipe.series.patch import Patch, parse_patch
from recipe.series.topics import State as Claim
from recipe.series.topics import claims


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """Files by their path in the project, with their new content, in the order to write them."""

    files: dict[str, bytes]


def rewrite(rebase: Rebase, state: State, *, narrow: bool = False) -> Rewritten:
    """Every file that the decided steps change; nothing is written.

    narrow: what is written is for this release alone, and holds on no other pinned one.
    """
    series = rebase.project.series_file.read_text(encoding="utf-8")
    files: dict[str, bytes] = {}
    below = rebase.release
    for step in state.steps:
        if not step.patch:
            continue
        patch = next(patch for patch in rebase.patches if patch.path == step.patch)
        old, new = (only_here if narrow else edits)(rebase, patch, step, below)
        below = step.commit or below
        if old != patch.content:
            files[f"patches/{patch.path}"] = old
        if new is not None:
            files[f"patches/{new.path}"] = new.content
            series = insert_after(series, patch.path, new.path)
    if series != rebase.project.series_file.read_text(encoding="utf-8"):
        files["series.txt"] = series.encode()
    return Rewritten(files=files)


def edits(rebase: Rebase, patch: Patch, step: Step, below: str) -> tuple[bytes, Patch | None]:
    """The patch's file as it will be, and the new one for the release if there must be one."""
    version, limit = rebase.onto.version, next_resolved(rebase, patch)
    bounded = header.range_text(header.bounded_below(patch.bases, version))
    if step.outcome == Claim.UPSTREAMED:
        return taken(patch, version), None
    if step.outcome == Claim.NOT_NEEDED:
        content = header.set_trailer(patch.content, "Bases", bounded)
        value = SpecifierSet(f">={header.release_text(version)}")
        if patch.not_needed is not None:
            value = header.including(patch.not_needed, version, pinned(rebase))
        elif limit is not None:
            value = header.bounded_below(value, limit)
        return header.set_trailer(content, "Not-Needed", header.range_text(value)), None
    wide = header.covering(patch.bases, version, limit)
    if step.outcome in (Outcome.UNCHANGED, Outcome.MOVED):
        if patch.bases.contains(version):
            return patch.content, None
        return header.set_trailer(patch.content, "Bases", header.range_text(wide)), None
    lower = f">={header.release_text(version)}"
    if not any(patch.bases.contains(one) for one in pinned(rebase) if one < version):
        # It was for this release and later ones only: the new text replaces the old.
        return written(rebase, patch, patch.path, header.range_text(wide), step, below), None
    upper = [str(one) for one in header.clauses(wide) if header.is_upper(one)]
    path = new_path(rebase, patch)
    new = written(rebase, patch, path, ",".join([lower, *upper]), step, below)
    return header.set_trailer(patch.content, "Bases", bounded), parse_patch(path, new)


def only_here(rebase: Rebase, patch: Patch, step: Step, below: str) -> tuple[bytes, Patch | None]:
    """As `edits`, but what was said of any other pinned release stays as it is."""
    version = rebase.onto.version
    others = [one for one in pinned(rebase) if one != version and patch.bases.contains(one)]
    wide = header.range_text(header.including(patch.bases, version, pinned(rebase)))
    rest = header.range_text(header.without(patch.bases, [version]))
    if step.outcome in (Claim.UPSTREAMED, Claim.NOT_NEEDED):
        # Applied-Upstream would say it of all later releases.
        here = SpecifierSet(f"=={header.release_text(version)}")
        if patch.not_needed is not None:
            here = header.including(patch.not_needed, version, pinned(rebase))
        content = header.set_trailer(patch.content, "Bases", rest)
        return header.set_trailer(content, "Not-Needed", header.range_text(here)), None
    if step.outcome in (Outcome.UNCHANGED, Outcome.MOVED):
        if patch.bases.contains(version):
            return patch.content, None
        return header.set_trailer(patch.content, "Bases", wide), None
    if not others:
        return written(rebase, patch, patch.path, wide, step, below), None
    path = new_path(rebase, patch)
    new = written(rebase, patch, path, f"=={header.release_text(version)}", step, below)
    return header.set_trailer(patch.content, "Bases", rest), parse_patch(path, new)


def pinned(rebase: Rebase) -> list[Version]:
    return [base.version for base in rebase.bases.releases]


def taken(patch: Patch, version: Version) -> bytes:
    """The patch, bounded below the release that has it, and with the condition to drop it."""
    bounded = header.range_text(header.bounded_below(patch.bases, version))
    content = header.set_trailer(patch.content, "Bases", bounded)
    content = header.set_trailer(content, "Applied-Upstream", str(version))
    if patch.drop_when is None:
        condition = f"upstream >= {header.release_text(version)}"
        content = header.set_trailer(content, "Drop-When", condition)
    return content


def next_resolved(rebase: Rebase, patch: Patch) -> Version | None:
    """The first later pinned release for which another header of the topic speaks."""
    files = [one for one in rebase.patches if one.topic == patch.topic]
    for base in rebase.bases.releases:
        later = base.version > rebase.onto.version and not patch.bases.contains(base.version)
        if later and claims(files, base.version):
            return base.version
    return None


def written(rebase: Rebase, patch: Patch, path: str, bases: str, step: Step, below: str) -> bytes:
    """The patch as git writes it of the commit on the release, with its new range."""
    headed = parse_patch(path, header.set_trailer(patch.content, "Bases", bases))
    commit = rebase.store.commit(
        rebase.store.tree_of(step.commit),
        below,
        message=headed.message,
        author=headed.author,
        date=headed.date,
    )
    return rebase.store.format_patch(commit)


def new_path(rebase: Rebase, patch: Patch) -> str:
    """``vllm/topic-0.34.patch``: the topic, and the release that the text is for."""
    release = header.release_text(rebase.onto.version)
    stem = f"{patch.upstream}/{patch.topic}-{release}"
    taken = {one.path for one in rebase.patches}
    names = (f"{stem}.patch", *(f"{stem}-{number}.patch" for number in range(2, len(taken) + 3)))
    return next(name for name in names if name not in taken)


def check_written(rebase: Rebase, state: State, made: Rewritten, copy: Path) -> Rebase:
    """The series as it will be, from a copy in `copy`; it must give the trees that were decided."""
    shutil.copytree(rebase.project.patches, copy / "patches", dirs_exist_ok=True)
    shutil.copy(rebase.project.series_file, copy / "series.txt")
    for name, content in made.files.items():
        write_whole(copy / name, content)
    project = Project(root=copy, cache=rebase.project.cache)
    after = replace(rebase, project=project, patches=read(project, rebase.upstream), columns={})
    column = after.column(rebase.onto)
    trees = {step.topic: rebase.store.tree_of(step.commit) for step in state.steps if step.commit}
    for topic in column.topics:
        if topic.patch is None:
            continue
        placed = column.placed.get(topic.patch.path)
        if placed is None or placed.after != trees.get(topic.name, placed.after):
            raise ApplyError(
                f"patches/{topic.patch.path}, as the rebase wrote it, doesn't apply on "
                f"{rebase.onto.tag} as it was decided: {topic.why}",
                means="Nothing was written to the project.",
                next="python build.py rebase --abort, and please report it: it is a fault here",
            )
    return after


def in_form(before: Rebase, after: Rebase, made: Rewritten) -> Rewritten:
    """The files, with each patch as git writes it of its commit on its first release.

    A range that begins elsewhere, or a patch before it that is another now, changes the blob ids
    and line numbers in a file. One that a person has written in another form stays as it is.
    """
    old = {patch.path: patch for patch in before.patches}
    files = dict(made.files)
    for patch in after.patches:
        content = canonical(after, patch)
        if content is None or content == patch.content:
            continue
        was = old.get(patch.path)
        if was is None or canonical(before, was) in (None, was.content):
            files[f"patches/{patch.path}"] = content
    # series.txt is the last, for it names the others.
    return Rewritten(files=dict(sorted(files.items(), key=lambda one: one[0] == "series.txt")))


def canonical(rebase: Rebase, patch: Patch) -> bytes | None:
    """What git writes of the patch on the first pinned release it is for, if it applies there."""
    first = next((b for b in rebase.bases.releases if patch.bases.contains(b.version)), None)
    placed = None if first is None else rebase.column(first).placed.get(patch.path)
    if placed is None:
        return None
    store = rebase.store
    commit = store.commit(
        placed.after,
        store.commit(placed.before, None, message="before\n"),
        message=patch.message,
        author=patch.author,
        date=patch.date,
    )
    return store.format_patch(commit)


def put_in_place(project: Project, state: State, made: Rewritten) -> None:
    """Write the files, each whole; `go_on_writing` does it again after a kill."""
    staged = rebase_state.folder(project) / "written"
    shutil.rmtree(staged, ignore_errors=True)
    for name, content in made.files.items():
        write_whole(staged / name, content)
    with hold_folder(project.root, project.cache, "the series"):
        if inputs(project) != state.inputs:
            raise ConfigError(
                "the series was changed while the rebase was under way",
                means="What it decided no longer fits. Nothing of it was written.",
                next="python build.py rebase --abort, then start it again",
            )
        rebase_state.save(project, replace(state, finishing=True))
        go_on_writing(project)


def go_on_writing(project: Project) -> list[str]:
    """Copy what is staged into the project; series.txt last, for it names the others."""
    staged = rebase_state.folder(project) / "written"
    names = [path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()]
    names.sort(key=lambda name: (name == "series.txt", name))
    for name in names:
        write_whole(project.root / name, (staged / name).read_bytes())
    return names
