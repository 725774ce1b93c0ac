# SPDX-License-Identifier: Apache-2.0
"""The pinned releases, as bases.toml has them."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from recipe.ground.errors import ConfigError, Mistyped, UsageError
from recipe.ground.text import read_text
from recipe.objects.gate.names import escaped, wrong_file_name

SCHEMA = 1
# Upstream's largest wheel has 0.4 GB; an index limits its projects to 10 GB a file at most.
LARGEST_ARCHIVE = 4 << 30
# One build for both chips: RTX PRO 6000 and RTX 5090 (12.0), DGX Spark (12.1).
DEFAULT_ARCH = "12.0;12.1"


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file on the package index, by name, hash and size in bytes.

    tree: of a source archive, the id that git gives its files without the top folder.
    """

    name: str
    sha256: str
    size: int | None = None
    tree: str | None = None


@dataclass(frozen=True, kw_only=True)
class InnerPin:
    """A source that upstream's CMake fetches: where from and which tag or commit.

    commit: what a tag must be at, where it is known. tree: the id of the files that are compiled,
    those of submodules among them, where it is known. why: of a pin that the overlay lifts.
    """

    name: str
    repository: str
    pin: str
    commit: str | None = None
    tree: str | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class GitPin:
    """Where the commit of a base is from that is no release of the index: a branch's head, a
    candidate, any commit. ref: what it was pinned by. tree: the id of its files.
    """

    repository: str
    ref: str
    tree: str


@dataclass(frozen=True, kw_only=True)
class Base:
    """One pinned upstream release, or a commit of upstream's.

    commit: the release's commit, or the first digits of it that the sdist's version file names.
    archive or git: where its source is from, one of them.
    torch: the version its wheel requires. cuda: the toolkit its wheel was built with.
    wheels: the published wheels by machine (x86_64, aarch64); there may be none. components: the
    compiled extensions in them. lifted: pins that the overlay puts in the place
    of upstream's, for what is compiled here.
    """

    tag: str
    commit: str
    torch: str
    cuda: str
    python: SpecifierSet
    archive: Archive | None
    wheels: dict[str, Archive]
    components: tuple[str, ...]
    inner: tuple[InnerPin, ...]
    lifted: tuple[InnerPin, ...] = ()
    git: GitPin | None = None

    @property
    def sdist(self) -> Archive:
        """The source archive; ConfigError for a base that is pinned from git."""
        if self.archive is None:
            raise ConfigError(
                f"{self.tag} is pinned from git and has no source archive",
                next="leave --source out, or: --source git",
            )
        return self.archive

    @property
    def source_id(self) -> str:
        """What names the content of its source."""
        return self.git.tree if self.git is not None else self.sdist.sha256

    @property
    def deepgemm(self) -> InnerPin | None:
        """Upstream's own pin of it; before v0.20 it was nothing that CMake fetches."""
        return next((pin for pin in self.inner if pin.name == "deepgemm"), None)

    def pin_of(self, name: str) -> InnerPin:
        """What an inner source is compiled from: the overlay's pin or else upstream's."""
        for pin in (*self.lifted, *self.inner):
            if pin.name == name:
                return pin
        raise ConfigError(
            f"{self.tag} has no {name}: its CMake fetches no such source",
            means="What it is compiled from isn't pinned anywhere.",
            next="python build.py bases   # lists what each release pins",
        )

    @property
    def version(self) -> Version:
        return Version(self.tag.removeprefix("v"))


@dataclass(frozen=True, kw_only=True)
class Bases:
    """What bases.toml says: the releases, oldest first, and the overlay's own revision."""

    revision: int
    releases: tuple[Base, ...]

    def find(self, text: str) -> Base:
        """``v0.33.0`` exactly, ``v0.33`` its newest patch release, ``latest`` the newest; a branch
        (``main``) or a commit by what it was pinned by.

        A candidate or a commit between releases is nobody's ``latest``.
        """
        finals = [base for base in self.releases if not base.version.is_prerelease]
        if text == "latest":
            return (finals or self.releases)[-1]
        for base in reversed(self.releases):
            by_commit = re.fullmatch(r"[0-9a-f]{7,40}", text) and base.commit.startswith(text)
            if (base.git is not None and base.git.ref == text) or by_commit:
                return base
        wanted = text.removeprefix("v")
        if not is_version(wanted):
            raise self.unknown(text)
        release = Version(wanted).release
        for base in reversed(self.releases):
            if str(base.version) == wanted:
                return base
            final = not base.version.is_prerelease
            if len(release) == 2 and final and base.version.release[:2] == release:
                return base
        raise self.unknown(text)

    def unknown(self, text: str) -> UsageError:
        tags = [base.tag for base in self.releases]
        known = " ".join(tags)
        close = difflib.get_close_matches(text, [*tags, "latest"], n=1)
        if close and not is_version(text):
            return Mistyped(
                f"{text!r} is not a pinned base",
                typed=text,
                meant=close[0],
                means=f"Known: {known}.",
                next="python build.py bases",
            )
        return UsageError(
            f"{text!r} is not a pinned base; known: {known}",
            means="A base is pinned in bases.toml by commit and by the hashes of its archives.",
            next=f"python build.py bases add {addable(text)}",
        )


def addable(text: str) -> str:
    """What `bases add` takes for a name that isn't pinned: a version's tag, or a branch."""
    if re.fullmatch(r"\d+(\.\w+)+", text):
        return f"v{text}"
    return text if re.fullmatch(r"[A-Za-z0-9_][\w./+-]*", text) else "v0.33.0"


def is_version(text: str) -> bool:
    try:
        Version(text)
    except ValueError:  # InvalidVersion, and what Python says of a number of 5,000 digits
        return False
    return True


def load_bases(path: Path) -> Bases:
    try:
        data = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path.name}: {error}", next=f"mend {path.name}") from None
    if data.get("schema") != SCHEMA:
        raise ConfigError(
            f"{path.name}: schema {data.get('schema')!r}; this recipe reads schema {SCHEMA}",
            next="use the recipe that belongs to this bases.toml",
        )
    if type(data.get("revision")) is not int:
        raise ConfigError(
            f"{path.name}: revision {data.get('revision')!r} is not a whole number",
            next=f"mend revision in {path.name}",
        )
    entries = data.get("base", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(
            f"{path.name}: base is not a list of tables", next=f"git checkout -- {path.name}"
        )
    releases = [parse_base(entry, path.name) for entry in entries]
    if not releases:
        raise ConfigError(f"{path.name} pins no release", next="python build.py bases add v0.33.0")
    releases.sort(key=lambda base: base.version)
    return Bases(revision=data["revision"], releases=tuple(releases))


def parse_base(entry: dict[str, Any], where: str) -> Base:
    tag = str(entry.get("tag", "?"))
    try:
        inner = parse_pins(entry.get("inner", {}))
        base = Base(
            tag=tag,
            commit=matched(entry["commit"], r"[0-9a-f]{7,40}", "a commit"),
            torch=entry["torch"],
            cuda=entry["cuda"],
            python=SpecifierSet(entry["python"]),
            archive=parse_archive(entry["sdist"]) if "sdist" in entry else None,
            wheels={m: parse_archive(a) for m, a in entry.get("wheels", {}).items()},
            components=tuple(entry["components"]),
            inner=inner,
            lifted=parse_pins(entry.get("lifted", {})),
            git=parse_git(entry["git"]) if "git" in entry else None,
        )
        if (base.archive is None) == (base.git is None):
            raise ValueError("its source is either an sdist or git")
        if base.git is not None and len(base.commit) != 40:
            raise ValueError(f"not a whole commit: {base.commit}")
        names = {pin.name for pin in inner}
        if strange := [pin.name for pin in base.lifted if pin.name not in names]:
            raise ValueError(f"lifted.{strange[0]} lifts a pin that isn't there")
        Version(tag.removeprefix("v"))
        matched(tag, r"v\d[\w.+-]{0,60}", "the tag of a release")
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
        raise ConfigError(
            f"{where}: base {tag}: {type(error).__name__}: {error}",
            next=f"mend the entry, or write it anew: python build.py bases add {tag}",
        ) from None
    return base


def parse_pins(entries: dict[str, dict[str, str]]) -> tuple[InnerPin, ...]:
    return tuple(
        InnerPin(
            name=matched(name, r"[A-Za-z0-9][\w-]*", "the name of a source"),
            repository=matched(pin["repository"], r"[^\s-][^\s\0-\x1f]*", "an address"),
            # It becomes a part of what git is asked for: a colon would name a ref to write.
            pin=matched(pin["pin"], r"[A-Za-z0-9_][\w./+-]*", "a tag or a commit"),
            commit=object_named(pin, "commit"),
            tree=object_named(pin, "tree"),
            why=pin.get("why", ""),
        )
        for name, pin in sorted(entries.items())
    )


def parse_git(entry: dict[str, str]) -> GitPin:
    return GitPin(
        repository=matched(entry["repository"], r"[^\s-][^\s\0-\x1f]*", "an address"),
        ref=matched(entry["ref"], r"[A-Za-z0-9_][\w./+-]*", "a branch, a tag or a commit"),
        tree=matched(entry["tree"], r"[0-9a-f]{40}", "the id of a tree"),
    )


def parse_archive(entry: dict[str, Any]) -> Archive:
    name, size = entry["name"], entry.get("size")
    if why := wrong_file_name(name):
        raise ValueError(f"not a file name: {escaped(name)} {why}")
    if size is not None and (type(size) is not int or not 0 < size <= LARGEST_ARCHIVE):
        raise ValueError(f"{name}: not a size in bytes: {size!r}")
    sha256 = matched(entry["sha256"], r"[0-9a-f]{64}", "a sha256")
    return Archive(name=name, sha256=sha256, size=size, tree=object_named(entry, "tree"))


def object_named(entry: dict[str, Any], key: str) -> str | None:
    """One of git's ids, where an entry has it."""
    return matched(entry[key], r"[0-9a-f]{40}", f"the id of a {key}") if key in entry else None


def matched(value: str, pattern: str, what: str) -> str:
    if re.fullmatch(pattern, value, re.ASCII) is None:
        raise ValueError(f"not {what}: {escaped(value)}")
    return value
