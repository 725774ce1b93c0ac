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

from recipe import header, rebase_state
from recipe.config import Project
from recipe.errors import ApplyError
from recipe.follow import Outcome
from recipe.patch import Patch, parse_patch
from recipe.rebase import Rebase, read
from recipe.rebase_state import State, Step
from recipe.scratch import write_whole
from recipe.series import State as Claim
from recipe.series import claims
from recipe.series_file import insert_after


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """Files by their path in the project, with their new content, in the order to write them."""

    files: dict[str, bytes]


def rewrite(rebase: Rebase, state: State) -> Rewritten:
    """Every file that the decided steps change; nothing is written."""
    series = rebase.project.series_file.read_text(encoding="utf-8")
    files: dict[str, bytes] = {}
    below = rebase.release
    for step in state.steps:
        if not step.patch:
            continue
        patch = next(patch for patch in rebase.patches if patch.path == step.patch)
        old, new = edits(rebase, patch, step, below)
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
    if step.outcome == Claim.UPSTREAMED:
        return taken(patch, version), None
    if step.outcome == Claim.NOT_NEEDED:
        bounded = header.range_text(header.bounded_below(patch.bases, version))
        content = header.set_trailer(patch.content, "Bases", bounded)
        value = SpecifierSet(f">={header.release_text(version)}")
        if limit is not None:
            value = header.bounded_below(value, limit)
        return header.set_trailer(content, "Not-Needed", header.range_text(value)), None
    wide = header.covering(patch.bases, version, limit)
    if step.outcome in (Outcome.UNCHANGED, Outcome.MOVED):
        if patch.bases.contains(version):
            return patch.content, None
        return header.set_trailer(patch.content, "Bases", header.range_text(wide)), None
    older = [b for b in rebase.bases.releases if b.version < version]
    lower = f">={header.release_text(version)}"
    if not any(patch.bases.contains(base.version) for base in older):
        # It was for this release and later ones only: the new text replaces the old.
        return written(rebase, patch, patch.path, header.range_text(wide), step, below), None
    upper = [str(one) for one in header.clauses(wide) if header.is_upper(one)]
    path = new_path(rebase, patch)
    new = written(rebase, patch, path, ",".join([lower, *upper]), step, below)
    bounded = header.range_text(header.bounded_below(patch.bases, version))
    old = header.set_trailer(patch.content, "Bases", bounded)
    return old, parse_patch(path, new)


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
    return f"{patch.upstream}/{patch.topic}-{release}.patch"


def check_written(rebase: Rebase, made: Rewritten, copy: Path) -> Rebase:
    """The series as it will be, from a copy in `copy`; it must apply exactly on the release."""
    shutil.copytree(rebase.project.patches, copy / "patches", dirs_exist_ok=True)
    shutil.copy(rebase.project.series_file, copy / "series.txt")
    for name, content in made.files.items():
        write_whole(copy / name, content)
    project = Project(root=copy, cache=rebase.project.cache)
    after = replace(
        rebase, project=project, patches=read(project, rebase.patches[0].upstream), columns={}
    )
    column = after.column(rebase.onto)
    for topic in column.topics:
        if topic.patch is not None and topic.patch.path not in column.placed:
            raise ApplyError(
                f"patches/{topic.patch.path}, as the rebase wrote it, doesn't apply on "
                f"{rebase.onto.tag}: {topic.why}",
                means="Nothing was written to the project.",
                next="python build.py rebase --abort, and please report it: it is a fault here",
            )
    return after


def put_in_place(project: Project, state: State, made: Rewritten) -> None:
    """Write the files, each whole; `go_on_writing` does it again after a kill."""
    staged = rebase_state.folder(project) / "written"
    shutil.rmtree(staged, ignore_errors=True)
    for name, content in made.files.items():
        write_whole(staged / name, content)
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
