# SPDX-License-Identifier: Apache-2.0
"""Pin what is no release of the index: a candidate, a branch's head, any commit of upstream's."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from recipe.bases.address import git_address, local_mirror
from recipe.bases.catalog import MACHINES, UNREADABLE, base_of, pin_release, write_pins
from recipe.bases.components import component_name
from recipe.bases.download import list_release
from recipe.bases.releases import Archive, Base, Bases, GitPin, load_bases
from recipe.bases.sources import store_of
from recipe.ground import run, scratch
from recipe.ground.digest import sha256
from recipe.ground.errors import ConfigError, SourceError, UsageError
from recipe.ground.lock import hold
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.ground.secret import plain
from recipe.objects.gate.members import check_members
from recipe.objects.git import Store, open_store
from recipe.objects.settings import ISOLATED

NAME = re.compile(r"[A-Za-z0-9_][\w./+-]{0,200}")
FINAL = re.compile(r"v\d+\.\d+\.\d+(\.post\d+)?")
# What git describes a commit by, and how many commits after it this one is.
DESCRIBED = re.compile(r"v(\d[\w.]*)-(\d+)-g[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to pin. source: the index ("auto"), "git", an address or a mirror on this disk.

    wheels: files to take the binaries from, of a nightly for example.
    """

    names: Sequence[str]
    source: str = "auto"
    wheels: Sequence[Path] = ()


def add(project: Project, wanted: Wanted) -> Bases:
    """Pin them and write bases.toml anew, the others as they were."""
    if wanted.wheels and len(wanted.names) != 1:
        raise UsageError(
            "--wheel is of one commit", next="python build.py bases add main --wheel FILE"
        )
    found = [pin(project, name, wanted) for name in wanted.names]
    return write_pins(project, {base.tag: base for base in found})


def pin(project: Project, name: str, wanted: Wanted) -> Base:
    """One base by its name: from the index where it is a release there, else from git."""
    version = version_of(name)
    if version is None and re.match(r"\d+\.", name):
        raise UsageError(
            f"{name!r} is not a release tag", next=f"python build.py bases add v{name}"
        )
    if not NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{name!r} is neither a tag, a branch nor a commit",
            next="python build.py bases add v0.33.0",
        )
    if wanted.source == "auto" and version is not None and not wanted.wheels:
        links = list_release("vllm", str(version))
        if any(link.name.endswith(".tar.gz") for link in links) or FINAL.fullmatch(name):
            return pin_release(project, name, links)
        say(f"  the package index has no vllm {version}: looking in git")
    return from_git(project, name, wanted)


def version_of(name: str) -> Version | None:
    """The version that a tag of upstream's names."""
    try:
        return Version(name[1:]) if re.fullmatch(r"v\d[\w.]{0,60}", name) else None
    except (InvalidVersion, ValueError):
        return None


def from_git(project: Project, name: str, wanted: Wanted) -> Base:
    source = "git" if wanted.source == "auto" else wanted.source
    address = git_address(source)
    if address is None:
        raise UsageError(
            f"--source {source} is neither git, a git address nor a repository on this disk",
            next=f"python build.py bases add {name} --source git",
        )
    store = store_of(project)
    with hold(project.cache / "locks" / "store.lock", "the object store"):
        commit = resolved(store, address, name)
        store.set_ref(f"refs/sm12x/revision/{commit}", commit)
        version = version_of(name) or counted(project, address, commit)
    if version is None:
        version = after(load_bases(project.bases_file), store, commit)
    tag = f"v{version}"
    say(f"pinning {tag}: {name} of {plain(address)} at {commit}")
    clash(project, tag, commit)
    pin = GitPin(repository=upstream_of(source, address), ref=name, tree=store.tree_of(commit))
    base = replace(base_of(store, commit, tag, commit), git=pin)
    return with_wheels(project, base, wanted.wheels)


def resolved(store: Store, address: str, name: str) -> str:
    """The commit of a tag, a branch or a whole id there, fetched without its history."""
    mirror = local_mirror(address)
    if mirror is not None and re.fullmatch(r"[0-9a-f]{7,39}", name):
        name = in_mirror(mirror, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}") or name
    if re.fullmatch(r"[0-9a-f]{40}", name):
        return store.fetch_revision(address, name)
    there = f"refs/sm12x/named/{sha256(name.encode())[:16]}"
    said = ""
    for kind in ("tags", "heads"):
        try:
            store.fetch(address, f"+refs/{kind}/{name}:{there}", "--depth=1")
            return store.text("rev-parse", "--verify", f"{there}^{{commit}}")
        except run.CommandFailed as error:
            said = error.stderr.strip()
    short = re.fullmatch(r"[0-9a-f]{7,39}", name) is not None
    raise SourceError(
        f"{plain(address)} has neither a tag nor a branch {name}: {said}",
        means="A server gives a commit by its whole id alone." if short else "Nothing was pinned.",
        next="python build.py bases add COMMIT   # all 40 digits"
        if short
        else "look at the name and the network; python build.py bases check lists releases",
    )


def counted(project: Project, address: str, commit: str) -> Version | None:
    """The version that upstream's build gives a commit: the next one, and how many commits it is
    after the tag before. None where no history says that."""
    mirror = local_mirror(address)
    if mirror is not None:
        found = in_mirror(mirror, *DESCRIBE, commit)
    else:
        with scratch.folder(project.cache, "described") as folder:
            found = described(open_store(folder / "git"), address, commit)
    described_as = DESCRIBED.fullmatch(found or "")
    if described_as is None:
        return None
    before, count = Version(described_as[1]), int(described_as[2])
    if count == 0:
        return before
    if before.pre is not None:
        return Version(f"{before.base_version}{before.pre[0]}{before.pre[1] + 1}.dev{count}")
    *first, last = before.release
    return Version(f"{'.'.join(map(str, (*first, last + 1)))}.dev{count}")


DESCRIBE = ("describe", "--tags", "--long", "--match=v[0-9]*")


def described(history: Store, address: str, commit: str) -> str | None:
    """As git says it from commits alone: their trees aren't fetched."""
    try:
        for wanted in ("+refs/tags/v*:refs/tags/v*", f"+{commit}:refs/heads/described"):
            history.fetch(address, wanted, "--filter=tree:0")
        return history.text(*DESCRIBE, commit)
    except run.CommandFailed:
        return None


def in_mirror(mirror: Path, *command: str) -> str | None:
    """What git says in somebody's repository; none of these commands runs what it names."""
    try:
        env = {**ISOLATED, "GIT_DIR": str(mirror)}
        return run.output(["git", *command], env=env).decode().strip()
    except run.CommandFailed:
        return None


def after(bases: Bases, store: Store, commit: str) -> Version:
    """Without a history: after the newest release that is pinned, by the commit's day."""
    newest = bases.find("latest").version
    day = store.text("log", "-1", "--format=%cd", "--date=format:%y%m%d", commit)
    *first, last = newest.release
    guess = Version(f"{'.'.join(map(str, (*first, last + 1)))}.dev{int(day)}")
    say(f"  no history says which release it comes after: taken as {guess}, after v{newest}")
    return guess


def clash(project: Project, tag: str, commit: str) -> None:
    """Two commits of side branches may be as far from a release."""
    known = load_bases(project.bases_file).releases if project.bases_file.exists() else ()
    for base in known:
        if base.tag == tag and not commit.startswith(base.commit):
            raise ConfigError(
                f"{tag} is pinned at {base.commit}, and {commit} would have that name, too",
                means="Nothing was pinned.",
                next=f"take the entry {tag} out of bases.toml, if it isn't needed any more",
            )


def upstream_of(source: str, address: str) -> str:
    """Where anybody can fetch it: a mirror on this disk says where it is from."""
    mirror = local_mirror(address)
    if source == "git" or mirror is None:
        return plain(address)
    origin = in_mirror(mirror, "config", "--get", "remote.origin.url")
    return plain(origin) if origin and re.match(r"[a-z+]+://", origin) else plain(address)


def with_wheels(project: Project, base: Base, files: Sequence[Path]) -> Base:
    """The base with wheels that lie on this disk, kept in the cache by their hash."""
    wheels: dict[str, Archive] = dict(base.wheels)
    components = set(base.components)
    for file in files:
        machine, names = read_wheel(file)
        content = file.read_bytes()
        archive = Archive(name=file.name, sha256=sha256(content), size=len(content))
        place = project.cache / "downloads" / archive.sha256 / archive.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            with scratch.folder(project.cache, "wheel") as folder:
                shutil.copyfile(file, folder / file.name)
                (folder / file.name).replace(place)
        wheels[machine] = archive
        components |= {component_name(name) for name in names if name.endswith(".so")}
    if not wheels:
        say("  it has no published wheel: name a nightly's with --wheel FILE before you build it")
    return replace(base, wheels=wheels, components=tuple(sorted(components)))


def read_wheel(file: Path) -> tuple[str, list[str]]:
    """The machine that a wheel is for, and its members."""
    try:
        tags = {tag.platform for tag in parse_wheel_filename(file.name)[3]}
        with zipfile.ZipFile(file) as wheel:
            check_members(wheel, lambda name, why: ValueError(f"{name} {why}"))
            names = wheel.namelist()
    except (InvalidWheelFilename, *UNREADABLE) as error:
        raise UsageError(
            f"--wheel {file} is no wheel that can be read: {error}",
            next="name one of vLLM's for the commit that is pinned",
        ) from None
    for machine in MACHINES:
        if any(tag.endswith(f"_{machine}") for tag in tags):
            return machine, names
    raise UsageError(
        f"--wheel {file} is for {', '.join(sorted(tags))}",
        next=f"name one for {' or '.join(MACHINES)}",
    )
