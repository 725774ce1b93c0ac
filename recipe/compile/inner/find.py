# SPDX-License-Identifier: Apache-2.0
"""Find one inner source: what the user names, the cache, a package that carries it, git."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from recipe.bases.download import fetch
from recipe.bases.releases import Base, InnerPin
from recipe.bases.sources import store_of
from recipe.compile.inner.cmake import Declared
from recipe.compile.inner.git import Repositories, flattened, repository_name
from recipe.compile.inner.given import Given, Shape, entries_of, shape_of
from recipe.compile.inner.package import check_package, check_version, package_entries, package_for
from recipe.ground.errors import SourceError
from recipe.ground.lock import hold
from recipe.ground.project import Project
from recipe.objects.gate.names import Entry
from recipe.series.overlay import OverlayFile
from recipe.series.patch import Patch


class Kind(StrEnum):
    """Where a source came from."""

    GIVEN = "given"  # a folder, archive or work tree as it stands
    GIT = "git"  # the pinned commit
    PACKAGE = "package"  # out of a pinned archive of the package index
    PLACEHOLDER = "placeholder"  # nothing is built of it


@dataclass(frozen=True, kw_only=True)
class Series:
    """What goes on an inner source: its own patches and overlay files."""

    patches: tuple[Patch, ...] = ()
    files: tuple[OverlayFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for. needed: CMake targets that will be built. series: by inner name."""

    base: Base
    needed: Collection[str]
    given: Given = field(default_factory=Given)
    series: Mapping[str, Series] = field(default_factory=dict)
    offline: bool = False


class MissingSource(SourceError):
    """A pinned source that can't be had. source: its name, repository and pin."""

    def __init__(self, source: str, users: list[str], problems: list[str], next: str) -> None:
        super().__init__(
            f"{source} is missing, and {', '.join(users)} "
            f"{'is' if len(users) == 1 else 'are'} compiled from it: {'; '.join(problems)}",
            means="Nothing was compiled.",
            next=next,
        )
        self.source = source


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A source before it is a folder: a commit in the store, or files."""

    kind: Kind
    origin: str
    pinned: bool
    commit: str | None = None
    entries: tuple[Entry, ...] = ()


def find(project: Project, declared: Declared, request: Request, users: list[str]) -> Tree:
    """The source itself; SourceError that names the components it is for."""
    pin = request.base.pin_of(declared.name)
    if declared.name in request.given.named:
        return from_path(project, declared, pin, request.given.named[declared.name], request)
    if declared.name in request.given.offered:
        return from_offered(project, declared, pin, request)
    problems = []
    for attempt in (from_cache, from_package, from_git):
        try:
            tree = attempt(project, declared, pin, request)
        except SourceError as error:
            problems.append(error.what)
            continue
        if tree is not None:
            return tree
    raise MissingSource(
        f"{declared.name} ({pin.repository} at {pin.pin})",
        users,
        problems,
        next=f"--sources {declared.name}=PATH   # a folder, a git repository or a tar archive",
    )


def repositories(project: Project, request: Request) -> Repositories:
    return Repositories(
        store=store_of(project), offline=request.offline, mirrors=request.given.mirrors
    )


def from_path(
    project: Project, declared: Declared, pin: InnerPin, path: Path, request: Request
) -> Tree:
    """What a person named, as it stands; of a bare repository, which has no files, the pin."""
    shape = shape_of(path)
    if shape == Shape.BARE:
        return from_repository(project, declared, pin, path, request)
    entries = tuple(entries_of(path, declared.subfolder))
    if not entries:
        raise SourceError(f"{declared.name}: {path} is empty", next="name another --sources")
    origin = f"the {shape} {path.name}, named by hand"
    if pin.name == "cutlass":
        version = (one.content for one in entries if one.path == "include/cutlass/version.h")
        check_version(pin, origin, next(version, None))
    return Tree(kind=Kind.GIVEN, origin=origin, pinned=False, entries=entries)


def from_offered(project: Project, declared: Declared, pin: InnerPin, request: Request) -> Tree:
    path = request.given.offered[declared.name]
    if shape_of(path) in (Shape.BARE, Shape.CHECKOUT):
        return from_repository(project, declared, pin, path, request)
    return from_path(project, declared, pin, path, request)


def from_repository(
    project: Project, declared: Declared, pin: InnerPin, path: Path, request: Request
) -> Tree:
    """The pinned commit out of a repository on this machine, and its submodules'."""
    found = repositories(project, request)
    mirrors = {**found.mirrors, repository_name(pin.repository): path}
    found = replace(found, mirrors=mirrors, offline=True)
    try:
        return from_commit(project, declared, pin, found)
    except SourceError as first:
        if request.offline:
            raise
        try:
            # Its submodules may be nowhere on this machine.
            return from_commit(project, declared, pin, replace(found, offline=False))
        except SourceError:
            raise first from None


def from_commit(project: Project, declared: Declared, pin: InnerPin, places: Repositories) -> Tree:
    with hold(project.cache / "locks" / "store.lock", "the object store"):
        commit, full = flattened(places, pin, declared.submodules)
    return Tree(kind=Kind.GIT, origin=f"{pin.repository} {full}", pinned=True, commit=commit)


def from_cache(
    project: Project, declared: Declared, pin: InnerPin, request: Request
) -> Tree | None:
    """What was fetched before; no address is asked."""
    places = replace(repositories(project, request), offline=True)
    try:
        return from_commit(project, declared, pin, places)
    except SourceError:
        return None


def from_package(
    project: Project, declared: Declared, pin: InnerPin, request: Request
) -> Tree | None:
    package = package_for(pin)
    if package is None:
        return None
    wheel = fetch(
        package.archive,
        project=package.project,
        version=package.version,
        cache=project.cache,
        offline=request.offline,
    )
    entries = tuple(package_entries(package, wheel))
    check_package(package, entries)
    origin = f"{package.archive.name} sha256:{package.archive.sha256}"
    version = (one.content for one in entries if one.path == "include/cutlass/version.h")
    check_version(pin, origin, next(version, None))
    return Tree(kind=Kind.PACKAGE, origin=origin, pinned=True, entries=entries)


def from_git(project: Project, declared: Declared, pin: InnerPin, request: Request) -> Tree | None:
    return from_commit(project, declared, pin, repositories(project, request))
