# SPDX-License-Identifier: Apache-2.0
"""Hold a wheel against what the recipe would write, byte by byte, and name what differs.

The wheel is written again, onto a file that keeps nothing and compares. Where all is the same,
that is the proof, whatever a reader of archives may think of it. Only where something differs is
the archive read, to say in which member and how.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from mmap import mmap
from typing import cast

from recipe.ground.digest import sha256
from recipe.objects.gate.names import escaped, folded
from recipe.wheel.layout import By, Edit, Laid, lay_out
from recipe.wheel.read import LARGEST_OBJECT
from recipe.wheel.verify import archive as zip_archive
from recipe.wheel.verify.archive import METHODS, Archive, Entry, Header, header_of
from recipe.wheel.verify.explain import explained
from recipe.wheel.verify.finding import ARCHIVE, Finding
from recipe.wheel.write import put

WHOSE = {
    By.UPSTREAM: "upstream's",
    By.WRITTEN: "this repository's",
    By.COMPILED: "the compiled one",
}
WORDS = {
    "needs": "needs another version to unpack",
    "flags": "has other flags",
    "method": "is compressed by another method",
    "time": "has another time",
    "date": "has another date",
    "crc": "has another checksum",
    "packed": "has another compressed size",
    "size": "has another size",
    "name": "has other bytes for its name",
    "extra": "has an extra field",
}


class Comparing(io.RawIOBase):
    """A file that is only written to, and compared with one that is there."""

    def __init__(self, data: mmap) -> None:
        self.data = data
        self.at = 0
        self.first: int | None = None  # of the bytes that differ

    def write(self, block: object) -> int:
        written = bytes(cast("bytes", block))
        there = self.data[self.at : self.at + len(written)]
        if self.first is None and there != written:
            same = next(
                (n for n, (a, b) in enumerate(zip(there, written, strict=False)) if a != b),
                len(there),
            )
            self.first = self.at + same
        self.at += len(written)
        return len(written)

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Nowhere but to where it is: what was compared stays compared."""
        assert (offset, whence) == (self.at, 0)
        return self.at

    def writable(self) -> bool:
        return True

    @property
    def different(self) -> int | None:
        """The first byte that isn't as written, or where one of the two ends."""
        if self.first is None and len(self.data) != self.at:
            return min(len(self.data), self.at)
        return self.first


@dataclass(frozen=True, kw_only=True)
class Held:
    """A wheel that was held against what must be. members: how many are whose."""

    findings: tuple[Finding, ...]
    members: Mapping[By, int]


def hold(data: mmap, old: zipfile.ZipFile, edit: Edit, read: Archive | None) -> Held:
    """Compare; old: upstream's published wheel, proven by its hash. read: the wheel as its bytes
    have it, None if no reader takes it for an archive."""
    sink = Comparing(data)
    wanted: dict[str, Laid] = {}
    with zipfile.ZipFile(cast("io.BytesIO", sink), "w") as new:
        for laid in lay_out(old, edit):
            put(new, laid)
            wanted[laid.name] = laid
    members = Counter(laid.by for laid in wanted.values())
    if sink.different is None:
        return Held(findings=(), members=members)
    findings = [] if read is None else [*read.findings, *differences(read, wanted)]
    if not findings:
        where = next((n for n, one in wanted.items() if reaches(one, sink.different)), ARCHIVE)
        why = f"isn't as it is written, from byte {sink.different} of the file on"
        findings = [Finding(member=where, why=why)]
    return Held(findings=tuple(dict.fromkeys(findings)), members=members)


def reaches(laid: Laid, at: int) -> bool:
    """Whether a byte of the file as written is of this member."""
    begin = laid.info.header_offset
    return begin <= at < begin + len(laid.info.FileHeader(zip64=False)) + laid.info.compress_size


def differences(read: Archive, wanted: Mapping[str, Laid]) -> list[Finding]:
    """What is more, less, twice, in another place or not what it must be."""
    found = []
    times = Counter(entry.name for entry in read.entries)
    found += [Finding(member=n, why=f"stands {c} times") for n, c in times.items() if c > 1]
    lost = {name: laid for name, laid in wanted.items() if name not in times}
    for entry in read.entries:
        if entry.name not in wanted:
            found.append(Finding(member=entry.name, why=stranger(entry, lost, wanted)))
            continue
        found += [Finding(member=entry.name, why=why) for why in wrong(read, entry, wanted)]
    found += [Finding(member=name, why="is missing") for name in lost]
    if not found:
        found += moved(read, wanted)
    return found


def stranger(entry: Entry, lost: Mapping[str, Laid], wanted: Mapping[str, Laid]) -> str:
    """What a member is that mustn't be there."""
    for name in wanted:
        if folded(name) == folded(entry.name):
            return f"is {escaped(name)} on a disk that folds letters; no such member may be there"
    for name, laid in lost.items():
        if (laid.info.CRC, laid.info.file_size) == (entry.central.crc, entry.central.size):
            return f"is {escaped(name)} under another name"
    return "is nobody's: neither upstream's nor a patch's nor the overlay's"


def moved(read: Archive, wanted: Mapping[str, Laid]) -> list[Finding]:
    """Members that lie in another order, or that the directory lists in another one."""
    order = [*wanted]
    for how, entries in (
        ("is listed", read.entries),
        ("lies", sorted(read.entries, key=lambda entry: entry.offset)),
    ):
        for entry, name in zip(entries, order, strict=True):
            if entry.name != name:
                return [Finding(member=entry.name, why=f"{how} where {escaped(name)} must be")]
    return []


def wrong(read: Archive, entry: Entry, wanted: Mapping[str, Laid]) -> list[str]:
    """Everything that isn't as it must be of a member that must be there."""
    laid = wanted[entry.name]
    header = header_of(laid.info)
    why = other_fields(entry.central, header)
    why += [
        f"{word}: {got}, not {must}" for word, got, must in attributes(entry, laid) if got != must
    ]
    data = content(read, entry, laid)
    if data:  # what follows from that says nothing more
        why = [
            one for one in why if not one.startswith((WORDS["crc"], WORDS["packed"], WORDS["size"]))
        ]
    return [*why, *([data] if data else [])]


def other_fields(found: Header, must: Header) -> list[str]:
    why = []
    for one in fields(Header):
        got, want = getattr(found, one.name), getattr(must, one.name)
        if got != want:
            if one.name == "method":
                got, want = METHODS.get(got, got), METHODS.get(want, want)
            if one.name == "date":
                got, want = date(got), date(want)
            if one.name == "time":
                got, want = clock(got), clock(want)
            why.append(f"{WORDS[one.name]}: {shown(got)}, not {shown(want)}")
    return why


def attributes(entry: Entry, laid: Laid) -> list[tuple[str, str, str]]:
    """(word, found, must) of what the central directory alone has."""
    info = laid.info
    rows = [
        ("is of another mode", f"{entry.attributes >> 16:o}", f"{info.external_attr >> 16:o}"),
        ("has other attributes", entry.attributes & 0xFFFF, info.external_attr & 0xFFFF),
        ("is made by another version", entry.version, info.create_version),
        ("is made on another system", entry.system, info.create_system),
        ("has other inner attributes", entry.internal, info.internal_attr),
        ("lies on another disk", entry.disk, 0),
        ("has a comment", entry.comment, b""),
    ]
    return [(word, shown(got), shown(must)) for word, got, must in rows]


def content(read: Archive, entry: Entry, laid: Laid) -> str | None:
    """How the bytes of a member differ; None if they are the same as they lie there."""
    there = read.data[entry.begin : entry.end]
    if entry.central.method == laid.info.compress_type and there == b"".join(laid.blocks()):
        return None
    found = zip_archive.digest(read, entry, LARGEST_OBJECT)
    must = hash_of(laid)
    if found is None:
        return "can't be unpacked, or has bytes behind what is packed in it"
    if found == must:
        return "has its own content, but packed otherwise"
    why = f"isn't {WHOSE[laid.by]}: sha256 {found}, not {must}"
    if laid.by == By.WRITTEN and isinstance(laid.data, bytes):
        said = explained(entry.name, read.content(entry, 1 << 26), laid.data)
        return f"{why}; {said}" if said else why
    return why


def hash_of(laid: Laid) -> str:
    """The sha256 of what must be there, by what must be there."""
    if laid.info.compress_type == zipfile.ZIP_STORED:
        return sha256(b"".join(laid.blocks()))
    blocks = [*zip_archive.inflated(b"".join(laid.blocks()), LARGEST_OBJECT)]
    return sha256(b"".join(block for block in blocks if block is not None))


def date(value: int) -> str:
    return f"{(value >> 9) + 1980}-{value >> 5 & 15:02}-{value & 31:02}"


def clock(value: int) -> str:
    return f"{value >> 11:02}:{value >> 5 & 63:02}:{(value & 31) * 2:02}"


def shown(value: object) -> str:
    return escaped(value) if isinstance(value, bytes) else str(value)
