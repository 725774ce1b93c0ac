# SPDX-License-Identifier: Apache-2.0
"""What is changed in a published wheel: the same for the build that does it and for `verify`, which
works it out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe.bases.sources import store_of
from recipe.build.plan import Plan, wheel_changes
from recipe.compile.native.members import replaced, with_files
from recipe.compile.native.stage import Native, as_built
from recipe.ground.digest import sha256_of
from recipe.ground.project import Project
from recipe.wheel.components import Component
from recipe.wheel.layout import Edit, Packed
from recipe.wheel.metadata import own_metadata
from recipe.wheel.read import dist_info, opened, read_record
from recipe.wheel.record import Changes, hexadecimal, record_files
from recipe.wheel.write import names_in


@dataclass(frozen=True, kw_only=True)
class Extensions:
    """The compiled extensions of a wheel.

    components: each with what becomes of it. files: by component, its members that are ours. built:
    what decides their bytes, for the record. whole: the wheel that upstream's own whole build made,
    in the place of the published one.
    """

    components: tuple[Component, ...]
    files: Mapping[str, Mapping[str, Path | Packed]] = field(default_factory=dict)
    built: Mapping[str, Any] = field(default_factory=dict)
    whole: Path | None = None

    @property
    def binaries(self) -> dict[str, Path | Packed]:
        return {name: file for files in self.files.values() for name, file in files.items()}


def extensions_of(native: Native, plan: Plan) -> Extensions:
    """What a build made of them."""
    built = as_built(native)
    return Extensions(
        components=native.settled.components,
        files=native.rebuilt.files if native.rebuilt else {},
        built={**built, "arch": list(plan.arch.asked)} if built else {},
        whole=native.whole.built.wheel if native.whole else None,
    )


@dataclass(frozen=True, kw_only=True)
class Edited:
    """wheel: what the edit is made in. components: with their members in the finished wheel."""

    wheel: Path
    edit: Edit
    components: tuple[Component, ...]


def edit_of(
    project: Project, plan: Plan, published: Path, extensions: Extensions, tag: str
) -> Edited:
    """The whole change, record and bill of materials included."""
    files, before, removed = wheel_changes(store_of(project), plan)
    upstreams = names_in(published)
    if extensions.whole:  # of the patched tree, so there is nothing upstream's to find in it
        published, before = extensions.whole, {}
    members = names_in(published)
    binaries = extensions.binaries
    removed |= replaced(members, extensions.files)
    components = with_files(extensions.components, upstreams, members, extensions.files)
    metadata, objects = facts(published, plan.version, tag)
    ours = {name: digest_of(file) for name, file in sorted(binaries.items())}
    kept = {n: digest for n, digest in objects.items() if n not in removed and n not in ours}
    built = dict(extensions.built)
    if built:
        of_each = {c: {m: ours[m] for m in sorted(f)} for c, f in sorted(extensions.files.items())}
        built["files"] = of_each
    made = Changes(
        components=components,
        files=files,
        before=before,
        removed=removed,
        metadata={name: files.get(name, content) for name, content in metadata.items()},
        reused={} if extensions.whole else kept,
        compiled=kept if extensions.whole else ours,
        built=built,
    )
    edit = Edit(
        version=plan.version,
        platform=tag,
        before=before,
        files=files,
        removed=frozenset(removed),
        record=record_files(plan, made),
        binaries=binaries,
    )
    return Edited(wheel=published, edit=edit, components=components)


def facts(wheel: Path, version: str, tag: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Our metadata in the place of a wheel's, and the sha256 of its shared objects, by member."""
    with opened(wheel) as archive:
        info = dist_info(archive)
        rows = read_record(archive, info)
        objects = {n: hexadecimal(row[0]) for n, row in rows.items() if n.endswith(".so")}
        return own_metadata(archive, info, version, tag), objects


def digest_of(file: Path | Packed) -> str:
    return file.sha256 if isinstance(file, Packed) else sha256_of(file)
