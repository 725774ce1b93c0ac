# SPDX-License-Identifier: Apache-2.0
"""Fetch archives from the package index by name, and keep them by hash."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.bases import transfer
from recipe.bases.index import index_urls, opened
from recipe.bases.releases import LARGEST_ARCHIVE, Archive
from recipe.bases.transfer import Pace, TooLong, page_reader, within
from recipe.ground import run
from recipe.ground.errors import SourceError
from recipe.ground.lock import hold
from recipe.ground.log import Progress, say
from recipe.ground.secret import address
from recipe.objects.gate.names import escaped

if TYPE_CHECKING:
    import unearth

BLOCK = 1 << 20
TRIES = 3
SECONDS_WITHOUT_A_BYTE = 60


@dataclass(frozen=True, kw_only=True)
class Link:
    """Where the index has a file."""

    name: str
    url: str
    sha256: str | None
    requires_python: str | None


def fetch(archive: Archive, *, project: str, version: str, cache: Path, offline: bool) -> Path:
    """The archive in the cache, downloaded if need be, its hash checked each time it is used."""
    folder = cache / "downloads" / archive.sha256
    path = folder / archive.name
    with hold(cache / "locks" / f"{archive.sha256[:16]}.lock", archive.name):
        if path.exists():
            check_hash(path, archive.sha256)
            return path
        if offline:
            raise SourceError(
                f"{archive.name} is not in the cache and --offline was given",
                means=f"Looked for {path}.",
                next="run once without --offline, or put the file there",
            )
        link = find_link(project, version, archive.name)
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        if part.is_symlink():  # it would be written where somebody else wants it
            part.unlink()
        download(link, part, archive.size)
        check_hash(part, archive.sha256)
        part.rename(path)
    return path


def check_hash(path: Path, expected: str) -> None:
    """Compare a file with its pinned sha256; a file that differs is moved aside first."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found == expected:
        return
    bad = path.with_name(path.name + ".bad")
    path.replace(bad)
    raise SourceError(
        f"{path.name.removesuffix('.part')} is not the pinned file\n"
        f"  expected sha256 {expected}\n  found    sha256 {found}",
        means=f"It was damaged or replaced. It was moved to {bad} and is used for nothing.",
        next="run the same command again to fetch it anew",
    )


def find_link(project: str, version: str, name: str) -> Link:
    """The index's link for one file of a release; SourceError if the index hasn't got it."""
    links = list_release(project, version)
    for link in links:
        if link.name == name:
            return link
    have = ", ".join(escaped(link.name)[1:-1] for link in links) or "nothing"
    raise SourceError(
        f"the package index has no {name}; for {project} {version} it has {have}",
        means="It was withdrawn, or the index in use is a mirror without it.",
        next=f"python build.py bases add v{version}   # pins what the index has now",
    )


def list_release(project: str, version: str) -> list[Link]:
    """Every file the index has for one release, source archives and wheels of all platforms."""
    return [link for found, link in list_files(project) if found == version]


def list_files(project: str) -> list[tuple[str, Link]]:
    """(version, link) of every file of a project, newest version first.

    unearth reads the index pages and never runs a package's code.
    """
    import httpx2  # what unearth fetches with
    import unearth

    urls = index_urls()
    try:
        with page_reader(urls) as reader:
            finder = unearth.PackageFinder(
                session=reader, index_urls=urls, ignore_compatibility=True
            )
            # A page is somebody's text: JSON that is none, addresses that are none, depths.
            found = within(
                transfer.PAGES_SECONDS,
                lambda: [linked(package) for package in finder.find_all_packages(project)],
            )
    except (
        unearth.UnpackError,
        httpx2.HTTPError,
        httpx2.InvalidURL,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise unreachable(project, f"{type(error).__name__}: {error}") from None
    if not found:
        raise unreachable(project, "the index gave no file for it")
    return found


def linked(package: unearth.Package) -> tuple[str, Link]:
    sha256 = next(iter((package.link.hash_option or {}).get("sha256", [])), None)
    if sha256 is not None and not isinstance(sha256, str):
        raise TypeError(f"the hash of {package.link.filename} is no text")
    return package.version or "", Link(
        name=package.link.filename,
        url=address(package.link.normalized.partition("#")[0]),
        sha256=sha256,
        requires_python=package.link.requires_python,
    )


def unreachable(project: str, why: str) -> SourceError:
    return SourceError(
        f"the package index could not be asked for {project}: {escaped(why)[1:-1]}",
        means="Nothing was changed; what the cache holds is still there.",
        next="check the network (pip download works?), or use only the cache: --offline",
    )


def download(link: Link, part: Path, size: int | None) -> None:
    """Fetch into `part`, going on where an earlier try stopped; the caller checks the hash.

    size: in bytes, where it is pinned. No more than that is written.
    """
    say(f"  fetching {link.name}")
    problem: Exception | None = None
    for _ in range(TRIES):
        try:
            receive(link, part, size)
            return
        except TooLong as error:
            part.unlink(missing_ok=True)
            raise SourceError(
                f"{link.name} is not the pinned file: {error}",
                means="Nothing of it was kept.",
                next="use another index, or pin what it has now: python build.py bases add vX.Y.Z",
            ) from None
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is as long as the file: let the hash decide
                return
            problem = error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if run.is_full(part.parent):
                raise run.disk_full(part.parent, f"{link.name} could not be written") from None
            problem = error
    done = part.stat().st_size if part.exists() else 0
    raise SourceError(
        f"{link.name} could not be fetched: {escaped(str(problem))[1:-1]}",
        means=f"{done / 2**20:.1f} MiB of it are kept in {part}.",
        next="run the same command again; it goes on where it stopped",
    )


def receive(link: Link, part: Path, size: int | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    most = LARGEST_ARCHIVE if size is None else size
    if have > most:
        raise TooLong(f"there are {have} bytes of it, and it has {most}")

    def ask() -> Any:
        return opened(link.url, headers=headers, timeout=SECONDS_WITHOUT_A_BYTE)

    with within(transfer.OPENING_SECONDS, ask) as answer:
        going_on = answer.status == 206
        have = have if going_on else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else size
        if total is not None and (total > most or (size is not None and total != size)):
            raise TooLong(
                f"it has {total} bytes, and {most} are " + ("allowed", "pinned")[bool(size)]
            )
        with part.open("ab" if going_on else "wb") as stream:
            done = copy(answer.read1, stream.write, Progress(link.name, total), have, most)
    if total is not None and done < total:
        # http.client ends quietly when the server closes early.
        raise OSError(f"the connection ended after {done} of {total} bytes")


def copy(
    read: Callable[[int], bytes],
    write: Callable[[bytes], int],
    progress: Progress,
    done: int,
    most: int,
) -> int:
    pace = Pace(done)
    try:
        # read gives what there is, so that a server that sends byte by byte is seen to.
        while block := read(BLOCK):
            done += len(block)
            if done > most:
                raise TooLong(f"the server sends more than its {most} bytes")
            write(block)
            progress.update(done)
            pace.note(done)
    finally:
        progress.close()
    return done
