# SPDX-License-Identifier: Apache-2.0
"""The dynamic section and symbols of a 64-bit little-endian ELF file, read from the file alone.

A machine that serves has no readelf. Layouts: the ELF-64 object file format, and elf(5).
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<qQ")
_IDENT = b"\x7fELF\x02\x01"
_SHT_DYNAMIC, _SHT_DYNSYM = 6, 11
_DT_NEEDED = 1
_STB_WEAK = 2


@dataclass(frozen=True, kw_only=True)
class Object:
    """Libraries that an object needs, names that it defines, names that it wants of others.

    What is weak and undefined may stay so and isn't wanted.
    """

    needed: tuple[str, ...]
    defined: frozenset[str]
    wanted: frozenset[str]


def read(path: Path) -> Object | None:
    """Read a shared object; None for what is none, or is cut off."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return _read(text)
    except (OSError, ValueError, struct.error, IndexError):
        return None


def _read(text: mmap.mmap) -> Object | None:
    if text[: len(_IDENT)] != _IDENT:
        return None
    header = _HEADER.unpack_from(text)
    first, size, count = header[6], header[11], header[12]
    sections = [_SECTION.unpack_from(text, first + i * size) for i in range(count)]
    needed: list[str] = []
    defined: set[str] = set()
    wanted: set[str] = set()
    for section in sections:
        kind, offset, length, link = section[1], section[4], section[5], section[6]
        if kind not in (_SHT_DYNAMIC, _SHT_DYNSYM):
            continue
        names = text[sections[link][4] : sections[link][4] + sections[link][5]]
        body = text[offset : offset + length]
        if kind == _SHT_DYNAMIC:
            entries = _DYNAMIC.iter_unpack(body)
            needed += [_name(names, value) for tag, value in entries if tag == _DT_NEEDED]
            continue
        for name, info, _, place, _, _ in _SYMBOL.iter_unpack(body):
            if place:
                defined.add(_name(names, name))
            elif name and info >> 4 != _STB_WEAK:
                wanted.add(_name(names, name))
    return Object(needed=tuple(needed), defined=frozenset(defined), wanted=frozenset(wanted))


def _name(names: bytes, start: int) -> str:
    return names[start : names.index(0, start)].decode("utf-8", "replace")
