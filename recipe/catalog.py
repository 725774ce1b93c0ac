# SPDX-License-Identifier: Apache-2.0
"""Pin a release: what `bases add` reads from the index, the sdist and the wheels, and writes."""

from __future__ import annotations

import io
import json
import re
import urllib.request
import zipfile

from packaging.specifiers import SpecifierSet
from packaging.utils import parse_wheel_filename

from recipe import pins
from recipe.archive import import_entries, tar_entries
from recipe.config import SCHEMA, Archive, Base, Bases, Project, load_bases
from recipe.download import Link, fetch, list_release
from recipe.errors import SourceError, UsageError
from recipe.git import Store
from recipe.lock import hold
from recipe.log import say
from recipe.native import component_name
from recipe.sources import IMPORTER, store_of

MACHINES = ("x86_64", "aarch64")
HEAD = """\
# The pinned upstream releases, oldest first. Written by: python build.py bases add vX.Y.Z
# revision: stands after +sm12x. in a wheel's version; raise it with every release of the overlay.
"""


def pin_release(project: Project, tag: str) -> Base:
    """Read every pin of one release; nothing is written."""
    if not re.fullmatch(r"v\d+\.\d+\.\d+(\.post\d+)?", tag):
        raise UsageError(f"{tag!r} is not a release tag", next="python build.py bases add v0.33.0")
    version = tag.removeprefix("v")
    links = list_release("vllm", version)
    if not links:
        raise SourceError(
            f"the package index has no vllm {version}", next="python build.py bases list"
        )
    sdist = archive_of(next(link for link in links if link.name.endswith(".tar.gz")))
    wheels = {machine: newest_wheel(links, machine) for machine in MACHINES}
    say(f"pinning {tag}: {sdist.name}")
    path = fetch(sdist, project="vllm", version=version, cache=project.cache, offline=False)
    store = store_of(project)
    with hold(project.cache / "locks" / "store.lock", "the object store"):
        ref = f"refs/sm12x/sdist/{sdist.sha256}-{IMPORTER}"
        origin = f"{sdist.name} sha256:{sdist.sha256}"
        commit = store.commit_of(ref)
        if commit is None:
            message = f"vllm {version}\n\n{origin}\n"
            commit = import_entries(store, tar_entries(path), ref, message)
    return read_tree(store, commit, tag, sdist, wheels)


def read_tree(store: Store, commit: str, tag: str, sdist: Archive, wheels: dict[str, Link]) -> Base:
    def read(path: str) -> str:
        return store.read(commit, path).decode()

    listing = store.text("ls-tree", "--name-only", commit, "--", "cmake/external_projects/")
    inner = pins.inner_pins(read, ["CMakeLists.txt", *listing.splitlines()])
    return Base(
        tag=tag,
        commit=pins.commit(read),
        torch=pins.torch_version(read),
        cuda=pins.cuda_version(read),
        python=SpecifierSet(pins.python_range(read)),
        sdist=sdist,
        wheels={machine: archive_of(link) for machine, link in wheels.items()},
        components=remote_components(wheels["x86_64"].url),
        deepgemm=next(pin for pin in inner if pin.name == "deepgemm"),
        inner=inner,
    )


def archive_of(link: Link) -> Archive:
    if link.sha256 is None:
        raise SourceError(f"the index gives no sha256 for {link.name}", next="use another index")
    return Archive(name=link.name, sha256=link.sha256)


def newest_wheel(links: list[Link], machine: str) -> Link:
    """The release's wheel for a machine; of two builds, the one with the higher build number."""
    wheels = [link for link in links if link.name.endswith(f"_{machine}.whl")]
    if not wheels:
        raise SourceError(f"the index has no {machine} wheel of it", next="python build.py bases")
    return max(wheels, key=lambda link: parse_wheel_filename(link.name)[2])


def remote_components(url: str) -> tuple[str, ...]:
    """The compiled extensions of a wheel on the index, from its central directory alone."""
    with zipfile.ZipFile(io.BufferedReader(RemoteFile(url), 1 << 18)) as wheel:
        return tuple(sorted({component_name(n) for n in wheel.namelist() if n.endswith(".so")}))


class RemoteFile(io.RawIOBase):
    """A file on a server that answers ranges, read where it is asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.position = 0
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:
            self.size = int(answer.headers["Content-Length"])

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
        with urllib.request.urlopen(urllib.request.Request(self.url, headers=wanted)) as answer:
            content = answer.read(last - self.position + 1)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def add(project: Project, tags: list[str]) -> Bases:
    """Pin the releases and write bases.toml anew, the others as they were."""
    old = load_bases(project.bases_file) if project.bases_file.exists() else None
    releases = {base.tag: base for base in old.releases} if old else {}
    for tag in tags:
        releases[tag] = pin_release(project, tag)
    ordered = tuple(sorted(releases.values(), key=lambda base: base.version))
    bases = Bases(revision=old.revision if old else 1, releases=ordered)
    temporary = project.bases_file.with_suffix(".part")
    temporary.write_text(render(bases), encoding="utf-8", newline="\n")
    load_bases(temporary)
    temporary.rename(project.bases_file)
    return bases


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
    lines.append(f"sdist = {render_archive(base.sdist)}")
    for machine, archive in sorted(base.wheels.items(), reverse=True):
        lines.append(f"wheels.{machine} = {render_archive(archive)}")
    for pin in base.inner:
        value = f"{{ repository = {quote(pin.repository)}, pin = {quote(pin.pin)} }}"
        lines.append(f"inner.{pin.name} = {value}")
    return "\n".join(lines) + "\n"


def canonical(python: SpecifierSet) -> str:
    return ",".join(sorted((str(one) for one in python), reverse=True))


def render_archive(archive: Archive) -> str:
    return f'{{ name = "{archive.name}", sha256 = "{archive.sha256}" }}'


def table(bases: Bases) -> list[dict[str, str]]:
    return [
        {
            "tag": base.tag,
            "commit": base.commit,
            "torch": base.torch,
            "cuda": base.cuda,
            "python": canonical(base.python),
            "deepgemm": base.deepgemm.pin[:9],
        }
        for base in bases.releases
    ]
