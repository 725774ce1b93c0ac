# SPDX-License-Identifier: Apache-2.0
"""What our wheel consists of, member by member, down to the header of each: who writes a wheel and
who verifies one go by the same list.

Members that stay are taken as they lie in upstream's archive, still compressed: that takes seconds
and doesn't depend on a compressor. Members we write are stored uncompressed with a fixed date, so
no zlib version can change a byte.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO

from recipe.ground.errors import AuditError, SourceError
from recipe.wheel.metadata import info_folder, own_metadata
from recipe.wheel.read import dist_info, read_record

# The oldest date a zip archive can hold.
DATE = (1980, 1, 1, 0, 0, 0)
DATE_SECONDS = 315532800  # the same, as SOURCE_DATE_EPOCH counts
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
BLOCK = 1 << 20


class By(StrEnum):
    """Who a member is from."""

    UPSTREAM = "upstream"  # as it lies in the published wheel
    WRITTEN = "written"  # the patched tree's, or what the wheel says of itself
    COMPILED = "compiled"  # the bytes of a compiler


@dataclass(frozen=True, kw_only=True)
class Span:
    """Bytes of an open file."""

    stream: IO[bytes]
    offset: int
    size: int

    def blocks(self) -> Iterator[bytes]:
        """The bytes, in pieces; AuditError if the file is shorter."""
        at, end = self.offset, self.offset + self.size
        while at < end:
            self.stream.seek(at)
            block = self.stream.read(min(end - at, BLOCK))
            if not block:
                raise AuditError(
                    f"{self.stream.name} ends at {at}, and {end - at} bytes are missing"
                )
            at += len(block)
            yield block


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A compiled member, compressed. crc, size, sha256 (hexadecimal): of its content."""

    data: bytes | Span
    crc: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What to change in a published wheel.

    before: the content upstream's tree has for each replaced member (sha256), to be found in the
    wheel too. files: content of replaced and new members by name, removed: names left out. record:
    new members of .dist-info. binaries: compiled members, on the disk or compressed already.
    """

    version: str
    platform: str
    before: Mapping[str, str]
    files: Mapping[str, bytes]
    removed: frozenset[str]
    record: Mapping[str, bytes]
    binaries: Mapping[str, Path | Packed] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Laid:
    """One member as it is to lie in the archive.

    info: its header; only the place in the archive is open. row: its hash and size as RECORD has
    them. data: its bytes there, compressed or not as the header says.
    """

    by: By
    info: zipfile.ZipInfo
    row: tuple[str, str]
    data: bytes | Span

    @property
    def name(self) -> str:
        return self.info.filename

    def blocks(self) -> Iterator[bytes]:
        if isinstance(self.data, Span):
            return self.data.blocks()
        return iter((self.data,))


def lay_out(old: zipfile.ZipFile, edit: Edit) -> Iterator[Laid]:
    """Every member of the edited wheel, in order, RECORD last; SourceError if the published wheel
    `old` isn't of the sources that the edit was made for."""
    old_info, new_info = dist_info(old), info_folder(edit.version)
    written = own_metadata(old, old_info, edit.version, edit.platform)
    written.update(edit.files)
    written.update({f"{new_info}/{name}": content for name, content in edit.record.items()})
    check_sources(old, edit)
    recorded = read_record(old, old_info)
    rows: list[tuple[str, str, str]] = []
    drop = {*edit.removed, f"{old_info}/RECORD"}
    replaced = {*written, *edit.binaries}
    for info in old.infolist():
        name = info.filename.replace(f"{old_info}/", f"{new_info}/", 1)
        if info.filename in drop or name in replaced or info.is_dir():
            continue
        rows.append((name, *recorded[info.filename]))
        yield kept(old, info, name, recorded[info.filename])
    for name, content in sorted(written.items()):
        one = stored(name, content)
        rows.append((name, *one.row))
        yield one
    for name, binary in sorted(edit.binaries.items()):
        one = compiled(name, pack(binary) if isinstance(binary, Path) else binary)
        rows.append((name, *one.row))
        yield one
    rows.append((f"{new_info}/RECORD", "", ""))
    yield stored(f"{new_info}/RECORD", record_text(rows))


def check_sources(old: zipfile.ZipFile, edit: Edit) -> None:
    """A file we replace must be in the wheel as it is in the source tree the patch was made for."""
    names = set(old.namelist())
    for name, expected in edit.before.items():
        if name not in names:
            continue  # upstream doesn't ship it; ours is added
        if hashlib.sha256(old.read(name)).hexdigest() != expected:
            raise SourceError(
                f"{name} in the published wheel differs from the source tree",
                means="The wheel was built from other sources than the patches apply to.",
                next="build from the pinned archive: --source sdist",
            )


def kept(old: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, row: tuple[str, str]) -> Laid:
    """A member of the published wheel under a (perhaps) new name, compressed as it is."""
    fresh = zipfile.ZipInfo(name, date_time=info.date_time)
    fresh.compress_type = info.compress_type
    fresh.external_attr = info.external_attr
    fresh.create_system = info.create_system
    fresh.CRC = info.CRC
    fresh.compress_size = info.compress_size
    fresh.file_size = info.file_size
    source = old.fp
    assert source is not None
    source.seek(info.header_offset)
    header = LOCAL_HEADER.unpack(source.read(LOCAL_HEADER.size))
    # Behind it come the name and the extra field, whose lengths it has.
    begin = info.header_offset + LOCAL_HEADER.size + header[9] + header[10]
    data = Span(stream=source, offset=begin, size=info.compress_size)
    return Laid(by=By.UPSTREAM, info=fresh, row=row, data=data)


def stored(name: str, content: bytes) -> Laid:
    """A member that we write."""
    info = zipfile.ZipInfo(name, date_time=DATE)
    info.external_attr = 0o100644 << 16
    info.create_system = 3  # Unix, whatever machine this is
    info.CRC = zlib.crc32(content)
    info.file_size = info.compress_size = len(content)
    row = (f"sha256={digest(content)}", str(len(content)))
    return Laid(by=By.WRITTEN, info=info, row=row, data=content)


def compiled(name: str, packed: Packed) -> Laid:
    """A compiled member; the bytes of a compile are those of its compilers."""
    info = zipfile.ZipInfo(name, date_time=DATE)
    info.external_attr = 0o100755 << 16
    info.create_system = 3
    info.compress_type = zipfile.ZIP_DEFLATED
    info.CRC = packed.crc
    info.file_size = packed.size
    data = packed.data
    info.compress_size = data.size if isinstance(data, Span) else len(data)
    row = (f"sha256={as_row(bytes.fromhex(packed.sha256))}", str(packed.size))
    return Laid(by=By.COMPILED, info=info, row=row, data=data)


def pack(path: Path) -> Packed:
    """Compress a compiled file; zlib's bytes may be its own machine's as well."""
    found, crc, size = hashlib.sha256(), 0, 0
    deflate = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = bytearray()
    with path.open("rb") as source:
        while block := source.read(BLOCK):
            found.update(block)
            crc = zlib.crc32(block, crc)
            size += len(block)
            data += deflate.compress(block)
    data += deflate.flush()
    return Packed(data=bytes(data), crc=crc, size=size, sha256=found.hexdigest())


def record_text(rows: list[tuple[str, str, str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(sorted(rows))
    return out.getvalue().encode()


def digest(content: bytes) -> str:
    """The hash as RECORD writes it: URL-safe base64 without padding."""
    return as_row(hashlib.sha256(content).digest())


def as_row(found: bytes) -> str:
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode()
