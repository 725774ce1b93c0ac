# SPDX-License-Identifier: Apache-2.0
"""Pin a release: what `bases add` reads from the index, the sdist and the wheels, and writes."""

from __future__ import annotations

import http
import http.client
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from recipe.bases import pins
from recipe.bases.components import component_name
from recipe.bases.download import SECONDS_WITHOUT_A_BYTE, Link, list_files, list_release
from recipe.bases.index import opened
from recipe.bases.releases import (
    LARGEST_ARCHIVE,
    SCHEMA,
    Archive,
    Base,
    Bases,
    InnerPin,
    load_bases,
)
from recipe.bases.sources import import_sdist
from recipe.bases.transfer import OPENING_SECONDS, within
from recipe.ground.errors import SourceError
from recipe.ground.lock import hold_folder
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.ground.scratch import write_whole
from recipe.objects.gate.members import check_members
from recipe.objects.gate.names import escaped, wrong_file_name
from recipe.objects.git import Store

ANOTHER = "use another index: PIP_INDEX_URL=... python build.py bases add vX.Y.Z"
# What a zip archive on somebody's server lets through the libraries that read it.
UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,  # an encrypted member; NotImplementedError: a method that isn't known
    http.client.HTTPException,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
MACHINES = ("x86_64", "aarch64")
HEAD = """\
# The pinned upstream releases, oldest first. Written by: python build.py bases add vX.Y.Z
# revision: stands after +sm12x. in a wheel's version; raise it with every release of the overlay.
"""


def pin_release(project: Project, tag: str, links: list[Link] | None = None) -> Base:
    """Read every pin of one release of the index; nothing is written.

    links: its files, where the index was asked already.
    """
    version = tag.removeprefix("v")
    links = list_release("vllm", version) if links is None else links
    if not links:
        raise SourceError(
            f"the package index has no vllm {version}",
            next=f"python build.py bases check; or from git: python build.py bases add {tag} "
            "--source git",
        )
    source = next((link for link in links if is_source(link)), None)
    if source is None:
        raise SourceError(f"the index has no source archive of {tag}", next="python build.py bases")
    sdist = archive_of(source)
    found = {machine: newest_wheel(links, machine) for machine in MACHINES}
    wheels = {machine: link for machine, link in found.items() if link is not None}
    say(f"pinning {tag}: {sdist.name}")
    store, commit = import_sdist(project, sdist, version, offline=False)
    kept = project.cache / "downloads" / sdist.sha256 / sdist.name
    sdist = replace(sdist, size=kept.stat().st_size, tree=store.tree_of(commit))
    return read_tree(store, commit, tag, sdist, wheels)


def read_tree(store: Store, commit: str, tag: str, sdist: Archive, wheels: dict[str, Link]) -> Base:
    read = reader(store, commit, tag)
    base = base_of(store, commit, tag, pins.commit(read))
    urls = [wheels[machine].url for machine in MACHINES if machine in wheels]
    return replace(
        base,
        archive=sdist,
        wheels={m: archive_of(link, remote_size(link.url)) for m, link in wheels.items()},
        components=remote_components(urls[0]) if urls else (),
    )


def reader(store: Store, commit: str, tag: str) -> pins.Reader:
    def read(path: str) -> str:
        if not store.has_path(commit, path):
            raise pins.unknown(f"{tag} has no {path}")
        return pins.text_of(store.read(commit, path), path)

    return read


def base_of(store: Store, commit: str, tag: str, named: str) -> Base:
    """What a tree of upstream's pins, without where it is from. named: the commit that it is."""
    read = reader(store, commit, tag)
    listing = store.text("ls-tree", "--name-only", commit, "--", "cmake/external_projects/")
    return Base(
        tag=tag,
        commit=named,
        torch=pins.torch_version(read),
        cuda=pins.cuda_version(read),
        python=SpecifierSet(pins.python_range(read)),
        archive=None,
        wheels={},
        components=(),
        inner=pins.inner_pins(read, ["CMakeLists.txt", *listing.splitlines()]),
    )


def archive_of(link: Link, size: int | None = None, tree: str | None = None) -> Archive:
    """The file as it is pinned; SourceError for what the index can't have meant."""
    if why := wrong_file_name(link.name):
        raise SourceError(f"the index names {escaped(link.name)}, which {why}", next=ANOTHER)
    if link.sha256 is None or not re.fullmatch(r"[0-9a-f]{64}", link.sha256):
        raise SourceError(f"the index gives no sha256 for {link.name}", next=ANOTHER)
    return Archive(name=link.name, sha256=link.sha256, size=size, tree=tree)


def newest_wheel(links: list[Link], machine: str) -> Link | None:
    """The release's wheel for a machine; of two builds, the one with the higher build number.

    Old releases have none for aarch64: they are pinned for the machine that they are for.
    """
    wheels = [link for link in links if link.name.endswith(f"_{machine}.whl")]
    return max(wheels, key=lambda link: parse_wheel_filename(link.name)[2], default=None)


def remote_size(url: str) -> int:
    try:
        return RemoteFile(url).size
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise unread(url, error) from None


def remote_components(url: str) -> tuple[str, ...]:
    """The compiled extensions of a wheel on the index, from its central directory alone."""
    try:
        with zipfile.ZipFile(io.BufferedReader(RemoteFile(url), 1 << 18)) as wheel:
            check_members(wheel, lambda name, why: ValueError(f"{name} {why}"))
            members = wheel.namelist()
    except UNREADABLE as error:
        raise unread(url, error) from None
    return tuple(sorted({component_name(name) for name in members if name.endswith(".so")}))


def unread(url: str, error: Exception) -> SourceError:
    name, why = escaped(url.rsplit("/", 1)[-1])[1:-1], escaped(str(error))[1:-1]
    return SourceError(
        f"the members of {name} could not be read from the index: {why}",
        means="Nothing was pinned.",
        next="check the network and run it again; the index's server must answer ranges",
    )


class RemoteFile(io.RawIOBase):
    """A file on a server that answers ranges, read where it is asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.position = 0
        how: dict[str, Any] = {"headers": {}, "timeout": SECONDS_WITHOUT_A_BYTE, "method": "HEAD"}
        with within(OPENING_SECONDS, lambda: opened(url, **how)) as answer:
            length = answer.headers["Content-Length"] or "0"
        self.size = int(length) if re.fullmatch(r"\d{1,12}", length) else 0
        if not 0 < self.size <= LARGEST_ARCHIVE:
            raise OSError("the server doesn't say a size that the file can have")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = start + offset
        return self.position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        last = min(self.position + len(buffer), self.size) - 1
        if last < self.position:
            return 0
        wanted = {"Range": f"bytes={self.position}-{last}"}
        content = within(OPENING_SECONDS, lambda: self.range(wanted, last - self.position + 1))
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def range(self, wanted: dict[str, str], count: int) -> bytes:
        with opened(self.url, headers=wanted, timeout=SECONDS_WITHOUT_A_BYTE) as answer:
            if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                raise OSError("the server doesn't answer ranges")
            return bytes(answer.read(count))


def newer(bases: Bases) -> list[str]:
    """Releases the index has that are newer than the newest pinned one, oldest first."""
    latest = bases.find("latest").version
    sources = (version for version, link in list_files("vllm") if is_source(link))
    found = {
        Version(version)
        for version in sources
        if re.fullmatch(r"\d{1,6}(\.\d{1,6}){1,4}([a-z.]{1,5}\d{1,6})*", version)
    }
    return [f"v{v}" for v in sorted(found) if v > latest and not v.is_prerelease]


def is_source(link: Link) -> bool:
    return link.name.endswith(".tar.gz")


def write_pins(project: Project, pinned: Mapping[str, Base]) -> Bases:
    """Write bases.toml anew with these, by tag; the others as they were."""
    # Minutes later: what another run has pinned meanwhile stays.
    with hold_folder(project.root, project.cache, "bases.toml"):
        old = load_bases(project.bases_file) if project.bases_file.exists() else None
        releases = {base.tag: base for base in old.releases} if old else {}
        for tag, new in pinned.items():
            before = releases.get(tag)
            new = replace(new, inner=with_proofs(new.inner, old))
            releases[tag] = new if before is None else replace(new, lifted=before.lifted)
        ordered = tuple(sorted(releases.values(), key=lambda base: base.version))
        bases = Bases(revision=old.revision if old else 1, releases=ordered)
        write_whole(project.bases_file, render(bases).encode(), check=load_bases)
    return bases


def with_proofs(inner: tuple[InnerPin, ...], old: Bases | None) -> tuple[InnerPin, ...]:
    """The pins with the commits and trees that are known of the same pins of other releases: what
    upstream's CMake names is a tag at times, and a tag can be moved."""
    known = {
        (pin.repository, pin.pin): pin
        for base in (old.releases if old else ())
        for pin in base.inner
        if pin.commit or pin.tree
    }
    found = ((pin, known.get((pin.repository, pin.pin), pin)) for pin in inner)
    return tuple(replace(pin, commit=one.commit, tree=one.tree) for pin, one in found)


def render(bases: Bases) -> str:
    parts = [HEAD, f"schema = {SCHEMA}\nrevision = {bases.revision}\n"]
    return "\n".join([*parts, *(render_base(base) for base in bases.releases)])


def render_base(base: Base) -> str:
    quote = json.dumps  # TOML's basic strings are JSON's
    lines = ["[[base]]"]
    plain = {"tag": base.tag, "commit": base.commit, "torch": base.torch, "cuda": base.cuda}
    lines += [f"{key} = {quote(value)}" for key, value in plain.items()]
    lines.append(f"python = {quote(canonical(base.python))}")
    lines.append(f"components = [{', '.join(quote(name) for name in base.components)}]")
    if base.archive is not None:
        lines.append(f"sdist = {render_archive(base.archive)}")
    if base.git is not None:
        fields = ", ".join(f"{key} = {quote(value)}" for key, value in asdict(base.git).items())
        lines.append(f"git = {{ {fields} }}")
    for machine, archive in sorted(base.wheels.items(), reverse=True):
        lines.append(f"wheels.{machine} = {render_archive(archive)}")
    lines += [f"inner.{pin.name} = {render_pin(pin)}" for pin in base.inner]
    lines += [f"lifted.{pin.name} = {render_pin(pin)}" for pin in base.lifted]
    return "\n".join(lines) + "\n"


def render_pin(pin: InnerPin) -> str:
    fields = {
        "repository": pin.repository,
        "pin": pin.pin,
        "commit": pin.commit,
        "tree": pin.tree,
        "why": pin.why,
    }
    said = [f"{key} = {json.dumps(value)}" for key, value in fields.items() if value]
    return f"{{ {', '.join(said)} }}"


def canonical(python: SpecifierSet) -> str:
    return ",".join(sorted((str(one) for one in python), reverse=True))


def render_archive(archive: Archive) -> str:
    said = [f'name = "{archive.name}"', f'sha256 = "{archive.sha256}"']
    said += [] if archive.size is None else [f"size = {archive.size}"]
    said += [] if archive.tree is None else [f'tree = "{archive.tree}"']
    return f"{{ {', '.join(said)} }}"


def table(bases: Bases) -> list[dict[str, str]]:
    return [
        {
            "tag": base.tag,
            "commit": base.commit,
            "torch": base.torch,
            "cuda": base.cuda,
            "python": canonical(base.python),
            "deepgemm": base.deepgemm.pin[:9] if base.deepgemm else "-",
        }
        for base in bases.releases
    ]
