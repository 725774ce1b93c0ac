# SPDX-License-Identifier: Apache-2.0
"""A zip archive as its bytes have it: both headers of each member, and what lies between them.

zipfile reads the central directory and takes it for the whole truth. Other readers go by the local
headers, skip what is before or behind, or take the first of two members. So a wheel is read here
byte by byte, and whatever one reader could take for something else is said.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from hashlib import sha256
from mmap import mmap

from recipe.wheel.verify.finding import ARCHIVE, Finding

END = struct.Struct("<4s4H2LH")
CENTRAL = struct.Struct("<4s2B5H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR_64 = struct.Struct("<4sLQL")
LONGEST_COMMENT = 1 << 16
UTF8 = 0x800
METHODS = {0: "stored", 8: "deflated", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd"}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What both headers of a member have; times are MS-DOS's."""

    needs: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    name: bytes
    extra: bytes


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One member. local: None where there is no local header. begin: of its data, in the file.

    version, system: what it was made by. attributes: of which the upper half is a Unix mode.
    """

    central: Header
    local: Header | None
    offset: int
    begin: int
    version: int
    system: int
    disk: int
    internal: int
    attributes: int
    comment: bytes

    @property
    def name(self) -> str:
        return self.central.name.decode("utf-8", "surrogateescape")

    @property
    def end(self) -> int:
        return self.begin + self.central.packed


@dataclass(kw_only=True)
class Archive:
    """The members in the central directory's order, and what is wrong with the archive itself."""

    data: mmap
    entries: list[Entry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def found(self, member: str, why: str) -> None:
        self.findings.append(Finding(member=member, why=why))

    def named(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name), None)

    def content(self, entry: Entry, largest: int) -> bytes | None:
        """A member, unpacked; None if it can't be, or has more than `largest` bytes."""
        found = bytearray()
        for block in self.blocks(entry, largest):
            if block is None:
                return None
            found += block
        return bytes(found)

    def blocks(self, entry: Entry, largest: int) -> Iterator[bytes | None]:
        """A member's content in pieces; None is the last where it is damaged or too large."""
        header = entry.central
        raw = self.data[entry.begin : entry.end]
        if len(raw) != header.packed or header.method not in (0, 8):
            yield None
        elif header.method == 0:
            yield raw if len(raw) <= largest else None
        else:
            yield from inflated(raw, largest)


def inflated(raw: bytes, largest: int) -> Iterator[bytes | None]:
    """One deflate stream and nothing behind it, in pieces of at most 1 MiB; None as the last where
    it isn't that, or longer."""
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while not inflate.eof and (raw or not size):
            block = inflate.decompress(raw, 1 << 20)
            raw = inflate.unconsumed_tail
            size += len(block)
            if size > largest or (not block and not inflate.eof):
                break
            yield block
    except zlib.error:
        yield None
        return
    if not inflate.eof or inflate.unused_data or size > largest:
        yield None


def digest(archive: Archive, entry: Entry, largest: int) -> str | None:
    """The sha256 of a member's content; None if it can't be unpacked or is larger."""
    found = sha256()
    for block in archive.blocks(entry, largest):
        if block is None:
            return None
        found.update(block)
    return found.hexdigest()


def read(data: mmap) -> Archive | None:
    """The archive; None if it has no end, so that no reader takes it for one."""
    archive = Archive(data=data)
    at = end_of(data)
    if at is None:
        return None
    _, disk, first, here, count, size, offset, comment = END.unpack_from(data, at)
    behind = len(data) - at - END.size
    if comment and behind >= comment:
        archive.found(ARCHIVE, f"has a comment of {comment} bytes")
    if behind != comment:
        archive.found(ARCHIVE, f"has {behind - comment} bytes behind its end")
    if (disk, first) != (0, 0) or here != count:
        archive.found(ARCHIVE, "says that it is a part of several")
    start = begin_of(data, at, size, offset)
    locator = at - LOCATOR_64.size
    if locator >= 0 and data[locator : locator + 4] == b"PK\6\7":
        archive.found(ARCHIVE, "has a zip64 end, which the recipe never writes")
        count, size, offset, start = end_64(data, locator, (count, size, offset, start))
    before = start - offset
    if before:
        archive.found(ARCHIVE, f"has {before} bytes before its beginning")
    directory(archive, start, at, before)
    if len(archive.entries) != count:
        archive.found(ARCHIVE, f"says that it has {count} members; it has {len(archive.entries)}")
    between(archive, start, before)
    return archive


def end_of(data: mmap) -> int | None:
    """Where the end of the archive is: the last that has a directory, or else the last."""
    first = max(0, len(data) - END.size - LONGEST_COMMENT)
    last = at = data.rfind(b"PK\5\6", first)
    while at >= 0:
        if at + END.size <= len(data):
            *_, size, offset, _ = END.unpack_from(data, at)
            if is_entry(data, begin_of(data, at, size, offset)):
                return at
        at = data.rfind(b"PK\5\6", first, at)
    return last if last >= 0 and last + END.size <= len(data) else None


def begin_of(data: mmap, end: int, size: int, offset: int) -> int:
    """Where the directory is: right before the end, or else where that says."""
    return offset if not is_entry(data, end - size) and is_entry(data, offset) else end - size


def is_entry(data: mmap, at: int) -> bool:
    return at >= 0 and data[at : at + 4] == b"PK\1\2"


def end_64(data: mmap, locator: int, old: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(count, size, offset, start) by the zip64 end that stands before its locator."""
    at = locator - END_64.size
    if at < 0 or data[at : at + 4] != b"PK\6\6":
        return old
    *_, count, size, offset = END_64.unpack_from(data, at)
    return count, size, offset, at - size


def directory(archive: Archive, start: int, end: int, before: int) -> None:
    """Read the central directory's entries, each with its local header."""
    data, at = archive.data, start
    while at + CENTRAL.size <= end and is_entry(data, at):
        _, version, system, needs, flags, method, time, date, crc, packed, size, *rest = (
            CENTRAL.unpack_from(data, at)
        )
        length, more, said, disk, internal, attributes, offset = rest
        at += CENTRAL.size
        name = data[at : at + length]
        extra = data[at + length : at + length + more]
        comment = data[at + length + more : at + length + more + said]
        at += length + more + said
        central = Header(
            needs=needs, flags=flags, method=method, time=time, date=date,
            crc=crc, packed=packed, size=size, name=name, extra=extra,
        )  # fmt: skip
        local, begin = local_header(data, offset + before)
        archive.entries.append(
            Entry(
                central=central,
                local=local,
                offset=offset,
                begin=begin,
                version=version,
                system=system,
                disk=disk,
                internal=internal,
                attributes=attributes,
                comment=comment,
            )
        )
    if 0 <= at < end and archive.data[at : at + 4] not in (b"PK\6\6", b"PK\5\6"):
        archive.found(ARCHIVE, f"has {end - at} bytes between its directory and its end")


def local_header(data: mmap, at: int) -> tuple[Header | None, int]:
    """The header before a member's data, and where the data begins."""
    if at < 0 or at + LOCAL.size > len(data) or data[at : at + 4] != b"PK\3\4":
        return None, at
    _, needs, flags, method, time, date, crc, packed, size, length, more = LOCAL.unpack_from(
        data, at
    )
    begin = at + LOCAL.size
    name, extra = data[begin : begin + length], data[begin + length : begin + length + more]
    header = Header(
        needs=needs, flags=flags, method=method, time=time, date=date,
        crc=crc, packed=packed, size=size, name=name, extra=extra,
    )  # fmt: skip
    return header, begin + length + more


def between(archive: Archive, start: int, before: int) -> None:
    """Name what of the file no entry of the directory accounts for, and what two share."""
    at, last = before, ""
    for entry in sorted(archive.entries, key=lambda entry: entry.offset):
        if entry.local is None:
            archive.found(entry.name, "has no local header where the directory says")
            continue
        place = entry.offset + before
        if place > at:
            behind = f"behind {last}" if last else "before the first member"
            archive.found(entry.name, f"has {place - at} bytes before it, {behind}, of no member")
        elif place < at:
            archive.found(entry.name, f"lies within {last}")
        if entry.central.flags & 8:
            archive.found(entry.name, "has a data descriptor, which the recipe never writes")
        at, last = max(at, entry.end), entry.name
        for one in fields(Header):
            mine, other = getattr(entry.local, one.name), getattr(entry.central, one.name)
            if mine != other:
                why = f"has another {one.name} in its local header than in the directory"
                archive.found(entry.name, f"{why}: {shown(mine)} and {shown(other)}")
    if at != start:
        archive.found(ARCHIVE, f"has {start - at} bytes between its members and its directory")


def shown(value: int | bytes) -> str:
    return repr(value) if isinstance(value, bytes) else str(value)


def header_of(info: zipfile.ZipInfo) -> Header:
    """Both headers of a member as zipfile writes them."""
    name, flags = encoded(info)
    year, month, day, hour, minute, second = info.date_time
    return Header(
        needs=info.extract_version,
        flags=flags,
        method=info.compress_type,
        time=hour << 11 | minute << 5 | second // 2,
        date=(year - 1980) << 9 | month << 5 | day,
        crc=info.CRC,
        packed=info.compress_size,
        size=info.file_size,
        name=name,
        extra=b"",
    )


def encoded(info: zipfile.ZipInfo) -> tuple[bytes, int]:
    """The name's bytes and the flags: what isn't ASCII is marked as UTF-8."""
    name = info.filename.encode()
    return name, info.flag_bits | (0 if info.filename.isascii() else UTF8)
