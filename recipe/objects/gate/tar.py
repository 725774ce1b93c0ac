# SPDX-License-Identifier: Apache-2.0
"""Read a source archive to its last byte, within bounds, without unpacking it anywhere.

tarfile alone takes a damaged header for the end, never reads what follows the last member (gzip's
checksum stands there), and takes a member's header into memory whatever its size.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

from recipe.ground import run
from recipe.ground.errors import SourceError
from recipe.objects.gate.names import (
    LARGEST_FILE,
    LARGEST_TREE,
    LINK,
    Entry,
    Gate,
    escaped,
    wrong_with,
)

# What a member's header may bring along: a name of 1,024 bytes, some dates.
LARGEST_HEADER = 1 << 20
# Sources pack three to ten times; this many times more than the archive itself is an attack. Below
# SMALL bytes nothing is counted: a file of zeros packs a thousand times.
MOST_TIMES = 200
SMALL = 64 << 20
BLOCK = 1 << 20
HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
# What an archive that was damaged, or made to do damage, lets through the libraries that read it.
UNREADABLE = (
    tarfile.TarError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    MemoryError,
    lzma.LZMAError,
    zlib.error,
)
MAGIC = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"))


class Damaged(ValueError):
    """What is wrong with an archive's form. No class that tarfile would take for an end."""


class Member(tarfile.TarInfo):
    """A member whose header is looked at before tarfile acts on it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Member:
        if not buf:
            raise Damaged("it ends without an end mark: it was cut off")
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(0) == tarfile.BLOCKSIZE:
                raise  # the end mark
            raise Damaged(f"a member's header is damaged: {error}") from None
        if hides_text(buf):
            raise Damaged(f"in {escaped(member.name)} something follows the NUL that ends a name")
        if member.size < 0:
            raise Damaged(f"{escaped(member.name)} has a size below zero")
        if member.type in HEADERS and member.size > LARGEST_HEADER:
            raise Damaged(f"a member has a header of {member.size} bytes")
        return member


def hides_text(header: bytes | bytearray) -> bool:
    """Whether a name or a link's target goes on behind the NUL where every reader stops."""
    fields = (header[:100], header[157:257])
    return any(field.partition(b"\0")[2].strip(b"\0") for field in fields)


class Counted(io.RawIOBase):
    """What an archive unpacks to, up to a bound that is set by its own size."""

    def __init__(self, stream: IO[bytes], packed: int) -> None:
        self.stream = stream
        self.bound = min(max(packed * MOST_TIMES, SMALL), LARGEST_TREE + LARGEST_FILE)
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self.stream.read(size)
        self.count += len(content)
        if self.count > self.bound:
            raise Damaged(f"it unpacks to more than {self.bound} bytes")
        return content


def tar_entries(archive: Path) -> Iterator[Entry]:
    """The files of a source archive, without its top folder; SourceError for anything unsafe."""
    gate = Gate(refuse=lambda name, why: unsafe(archive, name, why))
    try:
        yield from gate.through(members(archive, gate))
    except UNREADABLE as error:
        if run.is_full(archive.parent):
            raise
        raise SourceError(
            f"{archive.name} can't be read: {error}",
            means="It is damaged, or it isn't a source archive.",
            next=f"remove {archive} and run again",
        ) from None


def members(archive: Path, gate: Gate) -> Iterator[Entry]:
    """The archive's files and links as they stand in it, and then a look at how it ends."""
    top: str | None = None
    found = False
    with ExitStack() as opened:
        stream = Counted(unpacked(archive, opened), archive.stat().st_size)
        tar = opened.enter_context(
            tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", tarinfo=Member, bufsize=BLOCK)
        )
        for member in tar:
            if member.size < 0 or member.size > LARGEST_FILE:
                raise unsafe(archive, escaped(member.name), f"says it has {member.size} bytes")
            if member.isdir() and member.name.rstrip("/") in ("", "."):
                continue
            first, path = split_top(archive, member)
            top = first if top is None else top
            if first != top:
                raise unsafe(
                    archive, escaped(member.name), f"isn't in {escaped(top)}, the one top folder"
                )
            if member.isdir():
                if path:
                    gate.admit_folder(path)
                continue
            found = True
            yield entry_of(archive, tar, member, path)
        check_end(tar)
    if not found:
        raise SourceError(
            f"{archive.name} holds no file",
            means="An empty archive is no source.",
            next=f"remove {archive} and run again",
        )


def unpacked(archive: Path, opened: ExitStack) -> IO[bytes]:
    """The archive's stream, decompressed; what it ends with is checked when it is read to there."""
    stream = opened.enter_context(archive.open("rb"))
    start = stream.read(6)
    stream.seek(0)
    kind = next((kind for magic, kind in MAGIC if start.startswith(magic)), "plain")
    match kind:
        case "gzip":
            return cast("IO[bytes]", opened.enter_context(gzip.GzipFile(fileobj=stream)))
        case "bzip2":
            return opened.enter_context(bz2.BZ2File(stream))
        case "xz":
            return opened.enter_context(lzma.LZMAFile(stream))
    return stream


def split_top(archive: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    """The top folder of a member and its name below that, '' for the folder itself."""
    name = member.name.removeprefix("./").rstrip("/")
    top, _, path = name.partition("/")
    if name.startswith("/") or wrong_with(top):
        raise unsafe(archive, escaped(member.name), f"{wrong_with(name) or 'has an empty part'}")
    if not path and not member.isdir():
        raise unsafe(archive, escaped(member.name), "isn't in the archive's one top folder")
    return top, path


def entry_of(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> Entry:
    if member.issym():
        return Entry(path=path, mode=LINK, content=os.fsencode(member.linkname))
    if not member.isreg() or member.issparse():
        kind = "a hard link, a device, a pipe or a file with holes"
        raise unsafe(archive, escaped(member.name), f"is {kind}")
    stream = tar.extractfile(member)
    assert stream is not None
    content = stream.read()
    if len(content) != member.size:
        raise Damaged(f"{escaped(member.name)} is cut off")
    mode = "100755" if member.mode & stat.S_IXUSR else "100644"
    return Entry(path=path, mode=mode, content=content)


def check_end(tar: tarfile.TarFile) -> None:
    """Read what follows the end mark: zeros only, then the checksum of what compressed it."""
    rest = cast("IO[bytes]", tar.fileobj)
    while block := rest.read(BLOCK):
        if block.count(0) != len(block):
            raise Damaged("something follows its end mark")


def unsafe(archive: Path, name: str, why: str) -> SourceError:
    return SourceError(
        f"{archive.name}: member {name} {why}",
        means="The archive is refused as a whole; nothing of it was kept.",
        next="get the archive from the package index again, and compare its hash with bases.toml",
    )
