# SPDX-License-Identifier: Apache-2.0
"""A wheel taken apart to its headers, to be put together again with something forged.

zipfile writes no archive that another reader would read otherwise, so this writes them by hand.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipe.wheel.layout import digest

LOCAL = struct.Struct("<4s5H3L2H")
CENTRAL = struct.Struct("<4s2B5H3L5H2L")
END = struct.Struct("<4s4H2LH")


@dataclass(kw_only=True)
class Part:
    """A member: what both headers say, its bytes as they lie there, and where the local header is
    to say something else. before, behind: bytes of nobody around it. place: of a local header that
    is another member's."""

    name: bytes
    raw: bytes
    needs: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    packed: int
    size: int
    version: int
    system: int
    attributes: int
    internal: int = 0
    disk: int = 0
    extra: bytes = b""
    comment: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)
    before: bytes = b""
    behind: bytes = b""
    of: bytes | None = None
    listed: bool = True

    def said(self, key: str) -> Any:
        """What the local header says."""
        return self.local.get(key, getattr(self, key))

    def content(self) -> bytes:
        return zlib.decompress(self.raw, -15) if self.method == 8 else self.raw

    def hold(self, content: bytes, method: int = 0, level: int = -1) -> None:
        """Other content, with sizes and checksum that fit it."""
        self.raw = content
        if method == 8:
            deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
            self.raw = deflate.compress(content) + deflate.flush()
        self.method, self.size, self.packed = method, len(content), len(self.raw)
        self.crc = zlib.crc32(content)


@dataclass(kw_only=True)
class Forger:
    """A wheel in parts. The fields behind them are what stands between and around them."""

    parts: list[Part]
    before: bytes = b""
    shift: int = 0  # how much less than the truth the offsets say
    between: bytes = b""
    before_end: bytes = b""
    behind: bytes = b""
    comment: bytes = b""
    end: dict[str, int] = field(default_factory=dict)

    def part(self, name: str) -> Part:
        (found,) = [part for part in self.parts if part.name == name.encode()]
        return found

    def named(self, suffix: str) -> Part:
        (found,) = [part for part in self.parts if part.name.endswith(suffix.encode())]
        return found

    def add(self, name: str | bytes, content: bytes = b"forged\n", *, row: bool = True) -> Part:
        """One more member, before RECORD, with its row there."""
        like = self.named("/METADATA")
        new = replace(like, name=name if isinstance(name, bytes) else name.encode(), local={})
        new.hold(content)
        self.parts.insert(-1, new)
        if row:
            text = name if isinstance(name, str) else name.decode("latin-1")
            self.rows(lambda old: [*old, row_of(text, content)])
        return new

    def drop(self, name: str, *, row: bool = True) -> None:
        self.parts.remove(self.part(name))
        if row:
            self.rows(lambda old: [one for one in old if not one.startswith(name)])

    def change(self, name: str, content: bytes) -> None:
        """Other content of a member, and a row of RECORD that fits it."""
        part = self.part(name)
        part.hold(content, method=part.method)
        self.rows(
            lambda old: [
                row_of(name, content) if one.startswith((f"{name},", f'"{name}",')) else one
                for one in old
            ]
        )

    def replace(self, suffix: str, old: bytes, new: bytes) -> None:
        part = self.named(suffix)
        content = part.content()
        assert content.count(old) >= 1, (suffix, old)
        self.change(part.name.decode(), content.replace(old, new, 1))

    def rows(self, edit: Callable[[list[str]], list[str]]) -> None:
        record = self.named("/RECORD")
        lines = edit(record.content().decode().splitlines(keepends=True))
        record.hold("".join(lines).encode())

    def write(self) -> bytes:
        out = bytearray(self.before)
        central = bytearray()
        places: dict[bytes, int] = {}
        for part in self.parts:
            out += part.before
            if part.of is None:
                places[part.name] = len(out)
                out += header(part) + part.raw + part.behind
            if part.listed:
                central += entry(part, places[part.of or part.name] - self.shift)
        out += self.between
        start = len(out) - self.shift
        out += central + self.before_end
        listed = sum(part.listed for part in self.parts)
        end = {"count": listed, "size": len(central), "offset": start, **self.end}
        out += END.pack(
            b"PK\5\6",
            end.get("disk", 0),
            end.get("first", 0),
            end.get("here", end["count"]),
            end["count"],
            end["size"],
            end["offset"],
            len(self.comment),
        )
        return bytes(out + self.comment + self.behind)


def row_of(name: str, content: bytes) -> str:
    shown = f'"{name}"' if "," in name else name
    return f"{shown},sha256={digest(content)},{len(content)}\n"


def header(part: Part) -> bytes:
    said = part.said
    fixed = LOCAL.pack(
        b"PK\3\4", said("needs"), said("flags"), said("method"), said("time"), said("date"),
        said("crc"), said("packed"), said("size"), len(said("name")), len(said("extra")),
    )  # fmt: skip
    return bytes(fixed + said("name") + said("extra"))


def entry(part: Part, offset: int) -> bytes:
    fixed = CENTRAL.pack(
        b"PK\1\2", part.version, part.system, part.needs, part.flags, part.method, part.time,
        part.date, part.crc, part.packed, part.size, len(part.name), len(part.extra),
        len(part.comment), part.disk, part.internal, part.attributes, offset,
    )  # fmt: skip
    return fixed + part.name + part.extra + part.comment


def taken_apart(path: Path) -> Forger:
    """The parts of an archive that is as the recipe writes it."""
    data = path.read_bytes()
    count, _, start = struct.unpack_from("<HLL", data, len(data) - 22 + 10)
    parts, at = [], start
    for _ in range(count):
        _, *fields = CENTRAL.unpack_from(data, at)
        version, system, needs, flags, method, time, date, crc, packed, size, *rest = fields
        length, _, _, disk, internal, attributes, offset = rest
        name = data[at + CENTRAL.size : at + CENTRAL.size + length]
        begin = offset + LOCAL.size + length
        parts.append(
            Part(
                name=name, raw=data[begin : begin + packed], needs=needs, flags=flags,
                method=method, time=time, date=date, crc=crc, packed=packed, size=size,
                version=version, system=system, attributes=attributes, internal=internal, disk=disk,
            )
        )  # fmt: skip
        at += CENTRAL.size + length
    return Forger(parts=parts)
