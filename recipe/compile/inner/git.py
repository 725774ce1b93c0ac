# SPDX-License-Identifier: Apache-2.0
"""An inner source from a git repository: the pinned commit with its submodules, as one tree."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recipe.bases.releases import InnerPin
from recipe.compile.inner.cmake import NEVER_FETCHED
from recipe.ground import run
from recipe.ground.errors import SourceError
from recipe.ground.log import say
from recipe.objects.gate.names import escaped, wrong_with
from recipe.objects.git import Store

# Bump when the way a checkout becomes a tree changes.
FLATTENER = 1
COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_DEPTH = 5


@dataclass(frozen=True, kw_only=True)
class Submodule:
    """A commit of another repository at a path of a tree."""

    path: str
    url: str
    commit: str


@dataclass(frozen=True, kw_only=True)
class Repositories:
    """Where commits come from: repositories on this machine by name, then the address itself.

    mirrors: by the last part of an address without .git, in small letters.
    """

    store: Store
    offline: bool
    mirrors: Mapping[str, Path] = field(default_factory=dict)

    def commit(self, url: str, pin: InnerPin) -> str:
        """The full id of a pinned commit or tag, whose objects are in the store then.

        A tag that has been seen must be where it was; SourceError otherwise.
        """
        if COMMIT.fullmatch(pin.pin):
            return self.revision(url, pin.pin)
        kept = f"refs/sm12x/inner-tag-at/{key(pin.repository, pin.pin)}"
        seen = self.seen(kept)
        if seen is not None and pin.commit not in (None, seen):
            say(f"  the store's {kept} is not at {pin.commit}, which is pinned: it is not used")
            seen = None
        if seen is None and pin.commit is not None and self.store.commit_of(pin.commit):
            seen = pin.commit
        if seen is None or self.mirror(url) is not None:
            seen = check_tag(pin, self.tag(url, pin.pin), pin.commit or seen)
        self.store.set_ref(f"{kept}/{seen}", seen)
        return seen

    def seen(self, kept: str) -> str | None:
        """Where a tag was at first. The name of its ref says that: what it points to can be moved,
        and only keeps the objects."""
        listed = self.store.text("for-each-ref", "--format=%(refname)", f"{kept}/").split()
        commits = [name.rsplit("/", 1)[1] for name in listed]
        whole = [one for one in commits if COMMIT.fullmatch(one) and self.store.commit_of(one)]
        return whole[0] if len(whole) == 1 else None

    def revision(self, url: str, commit: str) -> str:
        """A commit by its full id, from wherever it can be had."""
        if self.store.commit_of(commit) is not None:
            return commit
        problems = []
        for place in self.places(url):
            say(f"  fetching {commit[:9]} of {place}")
            try:
                return self.store.fetch_revision(place, commit)
            except SourceError as error:
                problems.append(error.what)
        raise missing(f"commit {commit} of {url}", problems, offline=self.offline)

    def tag(self, url: str, tag: str) -> str:
        problems = []
        for place in self.places(url):
            say(f"  fetching {tag} of {place}")
            try:
                return self.store.fetch_commit(place, tag)
            except SourceError as error:
                problems.append(error.what)
        raise missing(f"tag {tag} of {url}", problems, offline=self.offline)

    def places(self, url: str) -> list[str]:
        mirror = self.mirror(url)
        found = [] if mirror is None else [str(mirror)]
        return [*found, url] if not self.offline or Path(url).exists() else found

    def mirror(self, url: str) -> Path | None:
        return self.mirrors.get(repository_name(url))


def repository_name(url: str) -> str:
    """The last part of an address, as it names a repository in a folder of them."""
    return url.rstrip("/").rsplit("/", 1)[-1].removesuffix(".git").lower()


def check_tag(pin: InnerPin, found: str, expected: str | None) -> str:
    if expected is None or found == expected:
        return found
    raise SourceError(
        f"tag {pin.pin} of {pin.repository} is at {found}; it was at {expected}",
        means="The tag was moved, or this is another repository. Nothing was built from it.",
        next=f"look at what changed there, then pin it: commit in inner.{pin.name} of bases.toml",
    )


def missing(what: str, problems: Sequence[str], *, offline: bool) -> SourceError:
    said = "; ".join(" ".join(problem.split()) for problem in problems)
    if offline:
        said = f"--offline was given{f' ({said})' if said else ''}"
    return SourceError(
        f"{what} could not be had: {said}",
        means="No source was changed.",
        next="name a repository that has it: --sources DIR",
    )


def key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def flattened(
    repositories: Repositories, pin: InnerPin, submodules: tuple[str, ...] | None
) -> tuple[str, str]:
    """(commit of a tree without submodules, the pinned commit) of a source.

    The tree has the submodules' files where the checkout would have them. A second call with the
    same pin asks nobody, and makes the tree again of the commits themselves: a ref only keeps it.
    Call it with the store's lock held.
    """
    store = repositories.store
    commit = repositories.commit(pin.repository, pin)
    tree = flat_tree(repositories, pin.repository, commit, submodules, MAX_DEPTH)
    if pin.tree is not None and tree != pin.tree:
        raise SourceError(
            f"{pin.name}: {pin.repository} at {pin.pin} has the tree {tree}; "
            f"bases.toml pins {pin.tree}",
            means="The pins contradict each other, or a submodule is not what it was.",
            next=f"look at what changed there, then mend tree in inner.{pin.name} of bases.toml",
        )
    made = store.commit(tree, None, message=f"{pin.name} {commit}\n")
    store.set_ref(f"refs/sm12x/inner/{key(FLATTENER, commit, submodules)}", made)
    return made, commit


def flat_tree(
    repositories: Repositories,
    url: str,
    commit: str,
    wanted: tuple[str, ...] | None,
    depth: int,
) -> str:
    store = repositories.store
    links = gitlinks(store, commit)
    if not links:
        return store.tree_of(commit)
    if depth == 0:
        raise SourceError(
            f"{url} at {commit} has submodules within submodules, more than {MAX_DEPTH} deep",
            next="name a folder with everything in it: --sources NAME=PATH",
        )
    named = {one.path: one for one in submodules_of(store, commit, url, links)}
    with store.index(commit) as index:
        for path in links:
            gone = b"0 %s\t%s\0" % (b"0" * 40, os.fsencode(path))
            store.git("update-index", "-z", "--index-info", stdin=gone, index=index)
            if not is_wanted(path, wanted):
                say(f"  left out of {url}: {escaped(path)}, a submodule that no build reads")
                continue
            if why := wrong_with(path):
                raise SourceError(
                    f"{url} at {commit}: the submodule {escaped(path)} {why}",
                    means="Nothing was built of it.",
                    next="name a folder with everything in it: --sources NAME=PATH",
                )
            if path not in named:
                raise SourceError(
                    f"{url} at {commit}: {path} is a submodule that .gitmodules doesn't name",
                    next="name a folder with everything in it: --sources NAME=PATH",
                )
            one = named[path]
            inner = repositories.revision(one.url, one.commit)
            tree = flat_tree(repositories, one.url, inner, None, depth - 1)
            rows = store.git("ls-tree", "-r", "-z", tree).split(b"\0")[:-1]
            placed = b"".join(
                row.replace(b"\t", b"\t%s/" % os.fsencode(path), 1) + b"\0" for row in rows
            )
            store.git("update-index", "-z", "--index-info", stdin=placed, index=index)
        return store.git("write-tree", index=index).decode().strip()


def is_wanted(path: str, wanted: tuple[str, ...] | None) -> bool:
    return path in wanted if wanted is not None else path not in NEVER_FETCHED


def gitlinks(store: Store, commit: str) -> dict[str, str]:
    """path -> commit of a tree's submodules."""
    rows = os.fsdecode(store.git("ls-tree", "-r", "-z", commit)).split("\0")
    split = (re.fullmatch(r"160000 commit ([0-9a-f]+)\t(.*)", row, re.DOTALL) for row in rows)
    return {match[2]: match[1] for match in split if match is not None}


def submodules_of(
    store: Store, commit: str, url: str, links: Mapping[str, str]
) -> tuple[Submodule, ...]:
    """What .gitmodules says of a tree's submodules, addresses relative to `url` resolved."""
    if not store.has_path(commit, ".gitmodules"):
        return ()
    blob = f"{commit}:.gitmodules"
    try:
        listing = store.git("config", "--blob", blob, "-z", "--get-regexp", r"\.(path|url)$")
    except run.CommandFailed:
        return ()
    values: dict[str, dict[str, str]] = {}
    for row in os.fsdecode(listing).split("\0")[:-1]:
        name, _, value = row.partition("\n")
        section, _, variable = name.rpartition(".")
        values.setdefault(section, {})[variable] = value
    return tuple(
        Submodule(path=one["path"], url=absolute(url, one["url"]), commit=links[one["path"]])
        for one in values.values()
        if one.get("path") in links and "url" in one
    )


def absolute(parent: str, url: str) -> str:
    """A submodule's address; SourceError for one that git would take for an option."""
    if url.startswith("-"):
        raise SourceError(
            f"{parent}: the submodule address {url!r} is not one",
            means="Nothing was fetched from it.",
            next="name a folder with everything in it: --sources NAME=PATH",
        )
    if not url.startswith(("./", "../")):
        return url
    scheme, separator, rest = parent.rstrip("/").partition("://")
    if not separator:
        scheme, rest = "", scheme
    return f"{scheme}{separator}{posixpath.normpath(posixpath.join(rest, url))}"
