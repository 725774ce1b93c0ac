# SPDX-License-Identifier: Apache-2.0
"""Upstream sources as commits in the object store: from an archive, a git tag or a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from recipe.bases import pins
from recipe.bases.address import VLLM_REPOSITORY, git_address
from recipe.bases.download import fetch
from recipe.bases.releases import Archive, Base, GitPin
from recipe.ground.errors import SourceError, UsageError
from recipe.ground.lock import hold
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.ground.run import check_disk
from recipe.ground.secret import plain
from recipe.objects.archive import import_entries
from recipe.objects.gate.folder import folder_entries
from recipe.objects.gate.names import Entry, escaped
from recipe.objects.gate.tar import tar_entries
from recipe.objects.gate.trees import check_tree
from recipe.objects.git import NotThere, Store, open_store
from recipe.objects.ids import import_id, tree_id

# Bump when the way an archive becomes a tree changes.
IMPORTER = 1
# An sdist, its tree in the store, and room for the pack while it is written.
ROOM_BYTES = 400 * 2**20


class Kind(StrEnum):
    SDIST = "sdist"
    GIT = "git"
    FOLDER = "folder"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One upstream tree in the store. origin says where it came from, for the record."""

    kind: Kind
    commit: str
    origin: str


def store_of(project: Project) -> Store:
    """Open the store; the lock keeps its cleaning away from a run that is writing."""
    with hold(project.cache / "locks" / "store.lock", "the object store"):
        return open_store(project.store)


def upstream_source(
    project: Project, base: Base, upstream: str, *, source: str, offline: bool
) -> Source:
    """The tree of one of series.UPSTREAMS that belongs to the base."""
    find = vllm_source if upstream == "vllm" else deepgemm_source
    return find(project, base, source=source, offline=offline)


def vllm_source(project: Project, base: Base, *, source: str, offline: bool) -> Source:
    """The base's tree. source: auto or sdist (the pinned archive), git, a git URL or a folder."""
    address = git_address(source)
    if base.git is not None and (source == "auto" or address is not None):
        return from_pin(project, base, base.git, address=address, offline=offline)
    if source in ("auto", Kind.SDIST):
        return from_sdist(project, base, offline=offline)
    if address is not None:
        return from_tag(project, base, url=address, offline=offline)
    return from_folder(project, Path(source), upstream="vllm")


def deepgemm_source(project: Project, base: Base, *, source: str, offline: bool) -> Source:
    """DeepGEMM's tree. source: git for the pinned repository, a git URL or a folder."""
    address = git_address(source)
    if source == "auto" or address is not None:
        pin = base.pin_of("deepgemm")
        url = pin.repository if address in (None, VLLM_REPOSITORY) else address
        return from_revision(project, url=url, commit=pin.pin, offline=offline)
    return from_folder(project, Path(source), upstream="deepgemm")


def from_pin(
    project: Project, base: Base, pin: GitPin, *, address: str | None, offline: bool
) -> Source:
    """The commit of a base that is pinned from git. address: where else than it was pinned from."""
    found = from_revision(
        project, url=address or pin.repository, commit=base.commit, offline=offline
    )
    tree = store_of(project).tree_of(found.commit)
    if tree != pin.tree:
        raise SourceError(
            f"{base.tag}: commit {base.commit} holds the tree {tree}; bases.toml pins {pin.tree}",
            means="The pins of this base contradict each other.",
            next=f"python build.py bases add {pin.ref}",
        )
    return found


def from_sdist(project: Project, base: Base, *, offline: bool) -> Source:
    store, commit = import_sdist(project, base.sdist, str(base.version), offline=offline)
    check_release(store, base, commit)
    return Source(kind=Kind.SDIST, commit=commit, origin=archive_origin(base.sdist))


def import_sdist(
    project: Project, archive: Archive, version: str, *, offline: bool
) -> tuple[Store, str]:
    """Fetch a source archive and import it, unless that was done; the store and the commit."""
    store, commits = import_sdists(project, [(archive, version)], offline=offline)
    return store, commits[0]


def import_sdists(
    project: Project, archives: Sequence[tuple[Archive, str]], *, offline: bool
) -> tuple[Store, list[str]]:
    """The same for several (archive, version), as many at once as there are processors."""
    store = store_of(project)
    wanted: list[Wanted] = []
    for archive, version in archives:
        if store.commit_of(sdist_ref(archive)) is None:
            check_disk(project.cache, ROOM_BYTES, f"the source of v{version}")
        # One whose tree is there is fetched as well: a damaged archive is found at its next use.
        path = fetch(archive, project="vllm", version=version, cache=project.cache, offline=offline)
        wanted.append(Wanted(archive=archive, version=version, path=path))
    known = [one.in_store(store) for one in wanted]
    if None not in known:
        return store, [commit for commit in known if commit is not None]
    with (
        hold(project.cache / "locks" / "store.lock", "the object store"),
        ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
    ):
        return store, list(pool.map(lambda one: one.imported(store), wanted))


@dataclass(kw_only=True)
class Wanted:
    """A source archive on the disk, whose hash is that of the pin, and the release it is of."""

    archive: Archive
    version: str
    path: Path

    @cached_property
    def tree(self) -> str:
        """The tree that it holds: as it is pinned, or else as its bytes say."""
        return self.archive.tree or tree_id(tar_entries(self.path))

    @property
    def message(self) -> str:
        return f"vllm {self.version}\n\n{archive_origin(self.archive)}\n"

    def in_store(self, store: Store) -> str | None:
        """Its commit, if the store has it. A ref of the store may have been moved: what it should
        name follows from the tree, and a ref that names anything else is as good as none."""
        commit = store.commit_of(sdist_ref(self.archive))
        return commit if commit == import_id(self.tree, self.message) else None

    def imported(self, store: Store) -> str:
        found = self.in_store(store)
        if found is not None:
            return found
        ref = sdist_ref(self.archive)
        if store.commit_of(ref) is not None:
            say(f"  the store's {ref} was moved away from {self.archive.name}: it is set anew")
        say(f"  importing {self.archive.name} into the object store")
        commit = import_entries(store, tar_entries(self.path), ref, self.message)
        tree = store.tree_of(commit)
        if tree != self.tree:
            store.git("update-ref", "-d", ref)
            raise SourceError(
                f"{self.archive.name} holds the tree {tree}; bases.toml pins {self.tree}",
                means="Its hash is the pinned one, so the pins contradict each other.",
                next=f"python build.py bases add v{self.version}",
            )
        return commit


def sdist_ref(archive: Archive) -> str:
    return f"refs/sm12x/sdist/{archive.sha256}-{IMPORTER}"


def archive_origin(archive: Archive) -> str:
    return f"{archive.name} sha256:{archive.sha256}"


def from_sdists(project: Project, bases: Sequence[Base], *, offline: bool) -> dict[str, str]:
    """The commit of each base's tree, by tag: from the pinned archives, and from git where a base
    is no release."""
    released = [base for base in bases if base.git is None]
    wanted = [(base.sdist, str(base.version)) for base in released]
    store, commits = import_sdists(project, wanted, offline=offline)
    for base, commit in zip(released, commits, strict=True):
        check_release(store, base, commit)
    found = {base.tag: commit for base, commit in zip(released, commits, strict=True)}
    for base in bases:
        if base.git is not None:
            found[base.tag] = from_pin(
                project, base, base.git, address=None, offline=offline
            ).commit
    return {base.tag: found[base.tag] for base in bases}


def check_release(store: Store, base: Base, commit: str) -> None:
    """The archive's own version file must name the pinned commit."""

    def read(path: str) -> str:
        if not store.has_path(commit, path):
            raise pins.unknown(f"{base.tag} has no {path}")
        return pins.text_of(store.read(commit, path), path)

    named = pins.commit(read)
    if not base.commit.startswith(named) and not named.startswith(base.commit):
        raise SourceError(
            f"{base.sdist.name} says it was made from commit {named}; "
            f"bases.toml pins {base.commit}",
            means="The pins of this base contradict each other.",
            next=f"python build.py bases add {base.tag}",
        )


def from_tag(project: Project, base: Base, *, url: str, offline: bool) -> Source:
    def fetch_tag(store: Store) -> str:
        commit = store.fetch_commit(url, base.tag)
        if not commit.startswith(base.commit):
            raise SourceError(
                f"tag {base.tag} of {url} is at {commit}; bases.toml pins {base.commit}",
                means="The tag was moved, or this is another repository.",
                next="look at what changed there, or build from the archive: --source sdist",
            )
        return commit

    place = plain(url)
    ref = f"refs/sm12x/git/{base.tag}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"
    wanted = Fetched(ref=ref, pin=base.commit, what=f"{base.tag} from {place}")
    commit = wanted.commit(project, fetch_tag, offline=offline)
    return Source(kind=Kind.GIT, commit=commit, origin=f"{place} {base.tag} {commit}")


def from_revision(project: Project, *, url: str, commit: str, offline: bool) -> Source:
    def fetch_revision(store: Store) -> str:
        return store.fetch_revision(url, commit)

    place = plain(url)
    ref = f"refs/sm12x/revision/{commit}"
    wanted = Fetched(ref=ref, pin=commit, what=f"{commit} from {place}")
    found = wanted.commit(project, fetch_revision, offline=offline)
    return Source(kind=Kind.GIT, commit=found, origin=f"{place} {found}")


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A commit of a repository that is kept by a ref once it is there. pin: how its id begins; a
    ref that was moved away from that is as good as none."""

    ref: str
    pin: str
    what: str

    def commit(self, project: Project, fetch_it: Callable[[Store], str], *, offline: bool) -> str:
        store = store_of(project)
        with hold(project.cache / "locks" / "store.lock", "the object store"):
            commit = self.kept(store)
            if commit is None:
                if offline:
                    raise not_cached(self.what)
                say(f"  fetching {self.what}")
                commit = fetch_it(store)
                store.set_ref(self.ref, commit)
        for path in check_tree(store, commit, self.refused):
            say(f"  left out: {escaped(path)}, which is a repository of its own (a submodule)")
        return commit

    def kept(self, store: Store) -> str | None:
        commit = store.commit_of(self.ref)
        if commit is None or commit.startswith(self.pin):
            return commit
        say(f"  the store's {self.ref} was moved away from {self.pin}: it is not used")
        if len(self.pin) < 40 or store.commit_of(self.pin) is None:
            return None
        store.set_ref(self.ref, self.pin)
        return self.pin

    def refused(self, name: str, why: str) -> SourceError:
        return SourceError(
            f"{self.what}: {name} {why}",
            means="No source was changed.",
            next="build from the archive: --source sdist",
        )


def from_folder(project: Project, folder: Path, *, upstream: str) -> Source:
    if not folder.is_dir():
        raise UsageError(
            f"--source {folder} is neither auto, sdist, git, a git address nor a folder",
            next="python build.py build --help",
        )
    store = store_of(project)
    entries: list[Entry] = list(folder_entries(folder.resolve()))
    if not entries:
        raise SourceError(f"the folder {folder} is empty", next="name the root of a source tree")
    with hold(project.cache / "locks" / "store.lock", "the object store"):
        ref = f"refs/sm12x/folder/{upstream}"
        commit = import_entries(store, iter(entries), ref, f"{upstream} from a folder\n")
    tree = store.tree_of(commit)
    return Source(kind=Kind.FOLDER, commit=commit, origin=f"a folder, tree {tree}, not verified")


def not_cached(what: str) -> NotThere:
    return NotThere(
        f"{what} is not in the object store and --offline was given",
        means="Nothing was changed.",
        next="run once without --offline",
    )
