# SPDX-License-Identifier: Apache-2.0
"""Every way to forge a wheel that we know: what is done, and the member that must be named."""

from __future__ import annotations

import bz2
import json
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from recipe.wheel.verify.finding import ARCHIVE
from tests.recipe.wheel.forging import Forger, Part

INFO = "vllm-9.1.0+sm12x.4.dist-info"
RECORD, METADATA, WHEEL = (f"{INFO}/{name}" for name in ("RECORD", "METADATA", "WHEEL"))
OURS = f"{INFO}/sm12x/record.json"
PATCH = f"{INFO}/sm12x/patches/vllm/mended.patch"
PATCHED, LAID, KEPT, BINARY = (
    "vllm/model.py", "vllm/sm12x/ours.py", "vllm/__init__.py", "vllm/_C.abi3.so",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Forgery:
    """what: is done by `do`. member: must be named, with a reason that has `why` in it."""

    what: str
    do: Callable[[Forger], object]
    member: str
    why: str

    def __str__(self) -> str:
        return self.what


def flip(name: str, at: int = -7) -> Callable[[Forger], None]:
    def do(wheel: Forger) -> None:
        part = wheel.part(name)
        raw = bytearray(part.raw)
        raw[at] ^= 1
        part.raw = bytes(raw)

    return do


def flip_with_record(name: str) -> Callable[[Forger], None]:
    """As somebody does who wants it to install: checksum, RECORD and record.json fit it."""

    def do(wheel: Forger) -> None:
        content = bytearray(wheel.part(name).content())
        content[len(content) // 2] ^= 1
        document = json.loads(wheel.part(OURS).content())
        for key in ("files", "overlay", "binaries"):
            for row in document[key]:
                if row["path"] == name:
                    row["sha256"] = "0" * 64
        wheel.change(OURS, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
        wheel.change(name, bytes(content))

    return do


def sets(name: str, /, **values: object) -> Callable[[Forger], None]:
    """Both headers say something else."""

    def do(wheel: Forger) -> None:
        for key, value in values.items():
            setattr(wheel.part(name), key, value)

    return do


def local(name: str, /, **values: object) -> Callable[[Forger], None]:
    """The local header alone says something else."""
    return lambda wheel: wheel.part(name).local.update(values)


def around(**values: object) -> Callable[[Forger], None]:
    def do(wheel: Forger) -> None:
        for key, value in values.items():
            setattr(wheel, key, value)

    return do


def add(name: str | bytes, *, row: bool = True) -> Callable[[Forger], Part]:
    return lambda wheel: wheel.add(name, row=row)


def twice(name: str, content: bytes | None) -> Callable[[Forger], None]:
    """A member of the same name, first: most readers take the last of two, some the first."""

    def do(wheel: Forger) -> None:
        old = wheel.part(name)
        new = replace(old, local={})
        if content is not None:
            new.hold(content, method=old.method)
        wheel.parts.insert(0, new)

    return do


def rename(name: str, new: str) -> Callable[[Forger], None]:
    def do(wheel: Forger) -> None:
        wheel.part(name).name = new.encode()
        wheel.rows(lambda old: [one.replace(f"{name},", f"{new},", 1) for one in old])

    return do


def rows(edit: Callable[[list[str]], list[str]]) -> Callable[[Forger], None]:
    return lambda wheel: wheel.rows(edit)


def text(name: str, old: bytes, new: bytes) -> Callable[[Forger], None]:
    return lambda wheel: wheel.replace(name, old, new)


def document(change: Callable[[dict[str, Any]], object]) -> Callable[[Forger], None]:
    """record.json with something else in it, and RECORD to fit."""

    def do(wheel: Forger) -> None:
        found = json.loads(wheel.part(OURS).content())
        change(found)
        wheel.change(OURS, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())

    return do


def unstale(found: dict[str, Any]) -> None:
    """The record says that nothing is missing in the wheel."""
    (component,) = found["components"]
    component["action"] = "reuse"
    component["why"] = "published binary; the patched tree compiles the same"
    found["not_in_this_wheel"] = []


def compiled(found: dict[str, Any]) -> None:
    """The record says that what is stale was compiled."""
    (component,) = found["components"]
    component.update(action="rebuild", why="--native names it")
    found["not_in_this_wheel"] = []


def repack(name: str, method: int, level: int = -1) -> Callable[[Forger], None]:
    def do(wheel: Forger) -> None:
        part = wheel.part(name)
        part.hold(part.content(), method=method, level=level)

    return do


def packed_by(name: str, method: int) -> Callable[[Forger], None]:
    """A method that pip's zipfile reads and other tools don't."""

    def do(wheel: Forger) -> None:
        part = wheel.part(name)
        content = part.content()
        pack: dict[int, Callable[[bytes], bytes]] = {12: bz2.compress, 14: lzma.compress}
        part.raw = pack[method](content) if method in pack else content
        part.method, part.needs = method, 63
        part.packed = len(part.raw)

    return do


def behind_the_stream(wheel: Forger) -> None:
    part = wheel.part(BINARY)
    part.raw += b"hidden"
    part.packed = len(part.raw)


def empty_blocks(wheel: Forger) -> None:
    """A deflate stream may begin with blocks that hold nothing."""
    part = wheel.part(BINARY)
    part.raw = b"\0\0\0\xff\xff" * 3 + part.raw
    part.packed = len(part.raw)
    assert zlib.decompress(part.raw, -15)


def descriptor(wheel: Forger) -> None:
    """Sizes and checksum behind the data, as a writer to a pipe leaves them."""
    part = wheel.part(KEPT)
    part.flags |= 8
    part.local.update(crc=0, packed=0, size=0)
    part.behind = struct.pack("<4s3L", b"PK\7\x08", part.crc, part.packed, part.size)


def zip64_member(wheel: Forger) -> None:
    part = wheel.part(KEPT)
    part.local["extra"] = struct.pack("<2H2Q", 1, 16, part.size, part.packed)
    part.local.update(packed=0xFFFFFFFF, size=0xFFFFFFFF)


def zip64_end(wheel: Forger) -> None:
    start = len(wheel.write()) - 22
    count, size, offset = struct.unpack_from("<HLL", wheel.write(), start + 10)
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    wheel.before_end = end + struct.pack("<4sLQL", b"PK\6\7", 0, start, 1)


def unlisted(wheel: Forger) -> None:
    """A member that the directory doesn't list: whoever reads from the front finds it."""
    wheel.add("vllm/hidden.py", row=False).listed = False


def shared(wheel: Forger) -> None:
    """Two names for one member's bytes."""
    wheel.add("vllm/alias.py", wheel.part(KEPT).content()).of = KEPT.encode()


def swap_places(wheel: Forger) -> None:
    wheel.parts[0], wheel.parts[1] = wheel.parts[1], wheel.parts[0]


def exchange(wheel: Forger) -> None:
    one, other = wheel.part(LAID), wheel.part(PATCHED)
    one.name, other.name = other.name, one.name


def second_archive(wheel: Forger) -> None:
    """Another archive's end behind this one's: readers disagree on which counts."""
    wheel.behind = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)


def unicode_path(wheel: Forger) -> None:
    """Info-ZIP's field that gives a member another name."""
    new = b"vllm/other.py"
    part = wheel.part(KEPT)
    field = struct.pack("<BL", 1, zlib.crc32(part.name)) + new
    part.extra = struct.pack("<2H", 0x7075, len(field)) + field


SETUID, LINK = 0o104755 << 16, 0o120777 << 16
HASH = "sha256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
NOBODY = "is nobody's"


def forgery(what: str, member: str, why: str, do: Callable[[Forger], object]) -> Forgery:
    return Forgery(what=what, do=do, member=member, why=why)


FORGERIES = [
    # A bit.
    forgery("a bit of a binary", BINARY, "can't be unpacked", flip(BINARY, 20)),
    forgery("the last bit of a binary", BINARY, "", flip(BINARY, -1)),
    forgery("a bit of a patched file", PATCHED, "isn't this repository's", flip(PATCHED)),
    forgery("a bit of an overlay file", LAID, "isn't this repository's", flip(LAID)),
    forgery("a bit of RECORD", RECORD, "isn't this repository's", flip(RECORD)),
    forgery("a bit of a binary, all mended", BINARY, "isn't upstream's", flip_with_record(BINARY)),
    forgery("a bit of upstream's Python, mended", KEPT, "isn't upstream's", flip_with_record(KEPT)),
    forgery("a bit of a patched file, mended", PATCHED, "isn't this", flip_with_record(PATCHED)),
    forgery("a bit of an overlay file, mended", LAID, "isn't this", flip_with_record(LAID)),
    # Members more, less, twice, otherwise called.
    forgery("a member more", "vllm/evil.py", NOBODY, add("vllm/evil.py")),
    forgery("one more that RECORD lacks", "vllm/evil.py", NOBODY, add("vllm/evil.py", row=False)),
    forgery("an absolute one", "/etc/evil", NOBODY, add("/etc/evil")),
    forgery("one that leaves", "../evil.py", NOBODY, add("../evil.py")),
    forgery("one with a backslash", "vllm\\evil.py", NOBODY, add("vllm\\evil.py")),
    forgery("one with a NUL", "vllm/__init__.py\0.txt", NOBODY, add("vllm/__init__.py\0.txt")),
    forgery("one with a line end", "vllm/a\nb.py", NOBODY, add("vllm/a\nb.py", row=False)),
    forgery("one that isn't UTF-8", "vllm/\udcff.py", NOBODY, add(b"vllm/\xff.py", row=False)),
    forgery("a folder", "vllm/new/", NOBODY, add("vllm/new/", row=False)),
    forgery("a .pth file", "evil.pth", NOBODY, add("evil.pth")),
    forgery("entry points", f"{INFO}/entry_points.txt", NOBODY, add(f"{INFO}/entry_points.txt")),
    forgery(
        "another .dist-info", "vllm-9.1.0.dist-info/METADATA", NOBODY,
        add("vllm-9.1.0.dist-info/METADATA"),
    ),
    forgery("a .data script", "vllm-9.1.0+sm12x.4.data/scripts/pip", NOBODY,
            add("vllm-9.1.0+sm12x.4.data/scripts/pip")),
    forgery("a member less", KEPT, "is missing", lambda wheel: wheel.drop(KEPT)),
    forgery("one less that RECORD has", LAID, "is missing", lambda w: w.drop(LAID, row=False)),
    forgery("no RECORD", RECORD, "is missing", lambda wheel: wheel.parts.pop()),
    forgery("a member twice", KEPT, "stands 2 times", twice(KEPT, None)),
    forgery("another one before it", KEPT, "stands 2 times", twice(KEPT, b"evil = 1\n")),
    forgery("a member under another name", "vllm/init.py", "is 'vllm/__init__.py' under another",
            rename(KEPT, "vllm/init.py")),
    forgery("two names changed for each other", LAID, "isn't this repository's", exchange),
    forgery("a twin in capitals", "vllm/Model.py", "on a disk that folds", add("vllm/Model.py")),
    forgery("a twin in wide letters", "vllm/ｍodel.py", "on a disk that folds",
            add("vllm/ｍodel.py")),
    forgery("a twin with a letter nobody sees", "vllm/mod\u200bel.py", "on a disk that folds",
            add("vllm/mod\u200bel.py")),
    forgery("a twin with a dot behind", "vllm/model.py.", "on a disk that folds",
            add("vllm/model.py.")),
    forgery("two names for one member", "vllm/alias.py", NOBODY, shared),
    forgery("a member the directory lacks", RECORD, "of no member", unlisted),
    # What it says of itself.
    forgery("a hash of RECORD", RECORD, "other rows: 'vllm/__init__.py'",
            rows(lambda old: [f"{KEPT},{HASH},49\n" if one.startswith(KEPT) else one
                              for one in old])),
    forgery("a row of RECORD less", RECORD, "other rows: 'vllm/_C.abi3.so'",
            rows(lambda old: [one for one in old if not one.startswith(BINARY)])),
    forgery("a row of RECORD without a hash", RECORD, "other rows: 'vllm/_C.abi3.so'",
            rows(lambda old: [f"{BINARY},,\n" if one.startswith(BINARY) else one for one in old])),
    forgery("a row of RECORD twice", RECORD, "other rows", rows(lambda old: [old[0], *old])),
    forgery("RECORD in another order", RECORD, "isn't this", rows(lambda old: old[::-1])),
    forgery("RECORD with other line ends", RECORD, "isn't this",
            rows(lambda old: [one.replace("\n", "\r\n") for one in old])),
    forgery("a record of another patchset", OURS, "other keys: 'patchset_digest'",
            document(lambda found: found.update(patchset_digest="sm12x-patchset-v1:" + "0" * 64))),
    forgery("a record of another source", OURS, "inputs.source.tree",
            document(lambda found: found["inputs"]["source"].update(tree="0" * 40))),
    forgery("a record in which nothing is stale", OURS, "components[0].action", document(unstale)),
    forgery("a record of a compile that wasn't", OURS, "components[0].action",
            document(compiled)),
    forgery("a record with a key more", OURS, "other keys: 'evil'",
            document(lambda found: found.update(evil=1))),
    forgery("a record that is no JSON", OURS, "'no JSON'", text(OURS, b"{", b"[")),
    forgery("a record with other blanks", OURS, "isn't this", text(OURS, b"\n", b"\n\n")),
    forgery("another patch", PATCH, "isn't this repository's", text(PATCH, b"+ours", b"+evil")),
    forgery("another series", f"{INFO}/sm12x/patches/series", "isn't this repository's",
            text("/series", b"vllm/mended.patch\n", b"")),
    forgery("another bill of materials", f"{INFO}/sboms/vllm-sm12x.cdx.json", "line ",
            text(".cdx.json", b"Apache-2.0", b"MIT")),
    forgery("a dependency more", METADATA, "line ",
            text("/METADATA", b"Requires-Dist", b"Requires-Dist: evil\nRequires-Dist")),
    forgery("another version", METADATA, "line ", text("/METADATA", b"+sm12x.4", b"+sm12x.5")),
    forgery("another tag", WHEEL, "line ", text("/WHEEL", b"-manylinux", b"-evil_manylinux")),
    forgery("purelib", WHEEL, "line ", text("/WHEEL", b"Purelib: false", b"Purelib: true")),
    forgery("another commit", "vllm/_version.py", "line ",
            text("vllm/_version.py", b"g0123abcde", b"gfedcba987")),
    # Headers.
    forgery("a setuid binary", BINARY, "is of another mode: 104755",
            sets(BINARY, attributes=SETUID)),
    forgery("a link", KEPT, "is of another mode: 120777", sets(KEPT, attributes=LINK)),
    forgery("an executable overlay file", LAID, "is of another mode",
            sets(LAID, attributes=0o100755 << 16)),
    forgery("no mode", PATCHED, "is of another mode: 0", sets(PATCHED, attributes=0)),
    forgery("a hidden file", PATCHED, "has other attributes",
            lambda w: sets(PATCHED, attributes=w.part(PATCHED).attributes | 2)(w)),
    forgery("another date", LAID, "has another date: 2020-", sets(LAID, date=40 << 9 | 1 << 5 | 1)),
    forgery("another hour", KEPT, "has another time", sets(KEPT, time=1)),
    forgery("another checksum", KEPT, "has another checksum", sets(KEPT, crc=1)),
    forgery("another size", KEPT, "has another size", sets(KEPT, size=1)),
    forgery("made on another system", LAID, "is made on another system", sets(LAID, system=0)),
    forgery("made by another version", LAID, "is made by another", sets(LAID, version=63)),
    forgery("text, not binary", LAID, "has other inner attributes", sets(LAID, internal=1)),
    forgery("a member's comment", LAID, "has a comment", sets(LAID, comment=b"hello")),
    forgery("an extra field", LAID, "has an extra field",
            sets(LAID, extra=struct.pack("<2H4s", 0xCAFE, 4, b"evil"))),
    forgery("a name in an extra field", KEPT, "has an extra field", unicode_path),
    forgery("encrypted", LAID, "has other flags: 1", sets(LAID, flags=1)),
    forgery("marked as UTF-8", LAID, "has other flags", sets(LAID, flags=0x800)),
    forgery("on another disk", LAID, "lies on another disk", sets(LAID, disk=1)),
    forgery("a data descriptor", KEPT, "has a data descriptor", descriptor),
    forgery("zip64 sizes", KEPT, "in its local header", zip64_member),
    forgery("another local name", KEPT, "another name in its local header",
            local(KEPT, name=b"vllm/__evil__.py")),
    forgery("another local size", KEPT, "another size in its local", local(KEPT, size=1)),
    forgery("another local method", KEPT, "another method in its local", local(KEPT, method=0)),
    forgery("another local flag", KEPT, "another flags in its local", local(KEPT, flags=1)),
    forgery("another local date", KEPT, "another date in its local", local(KEPT, date=33)),
    forgery("another local checksum", KEPT, "another crc in its local", local(KEPT, crc=1)),
    forgery("a local extra field", KEPT, "another extra in its local",
            local(KEPT, extra=struct.pack("<2H4s", 0xCAFE, 4, b"evil"))),
    # Compression.
    forgery("stored, not deflated", KEPT, "by another method: stored", repack(KEPT, 0)),
    forgery("deflated, not stored", LAID, "by another method: deflated", repack(LAID, 8)),
    forgery("another level", BINARY, "packed otherwise", repack(BINARY, 8, 1)),
    forgery("blocks that hold nothing", BINARY, "packed otherwise", empty_blocks),
    forgery("bytes behind the stream", BINARY, "behind what is packed", behind_the_stream),
    forgery("bzip2", KEPT, "by another method: bzip2", packed_by(KEPT, 12)),
    forgery("LZMA", KEPT, "by another method: LZMA", packed_by(KEPT, 14)),
    forgery("zstd", KEPT, "by another method: zstd", packed_by(KEPT, 93)),
    # Around the members.
    forgery("bytes behind the end", ARCHIVE, "4 bytes behind its end", around(behind=b"evil")),
    forgery("another archive behind it", ARCHIVE, "22 bytes behind its end", second_archive),
    forgery("bytes before the beginning", ARCHIVE, "4 bytes before",
            around(before=b"evil", shift=4)),
    forgery("bytes before, offsets mended", KEPT, "before the first member",
            sets(KEPT, before=b"evil")),
    forgery("bytes between two members", LAID, "4 bytes before it", sets(LAID, before=b"evil")),
    forgery("bytes before the directory", ARCHIVE, "and its directory", around(between=b"evil")),
    forgery("bytes behind the directory", ARCHIVE, "its directory and its end",
            around(before_end=b"evil")),
    forgery("a comment", ARCHIVE, "has a comment of 5 bytes", around(comment=b"hello")),
    forgery("a comment with bytes behind it", ARCHIVE, "3 bytes behind its end",
            around(comment=b"hello", behind=b"bye")),
    forgery("a zip64 end", ARCHIVE, "has a zip64 end", zip64_end),
    forgery("another number of members", ARCHIVE, "says that it has 3 members",
            around(end={"count": 3})),
    forgery("a part of several", ARCHIVE, "part of several", around(end={"disk": 1})),
    forgery("members in another order", "vllm/envs.py", "is listed where", swap_places),
]  # fmt: skip
