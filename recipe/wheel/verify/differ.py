# SPDX-License-Identifier: Apache-2.0
"""How the members of two builds of one wheel differ: in bytes alone, in symbols, or in code.

Two compiles of the same sources may differ where a compiler writes a path, a date or a random name.
That is bytes; what runs is the same. Symbols are what a library offers and asks for; code is what
a processor or a GPU executes, and the constants that it reads.
"""

from __future__ import annotations

import ast
import io
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from recipe.ground.digest import sha256

# GPU code lies in these, whatever their flags say; `.rodata` and `.data` are what code reads.
GPU = (".nv_fatbin", ".nvFatBinSegment", "__nv_relfatbin")
# Written by linkers and compilers about themselves; the loader's tables follow from the rest.
BESIDE = (".note", ".comment", ".debug", ".gnu", ".gnu_debuglink", ".strtab", ".shstrtab")
NO_BITS = "SHT_NOBITS"


class How(StrEnum):
    """Which of them says most: code before symbols before bytes."""

    HERE = "only-here"
    THERE = "only-in-the-rebuilt"
    CODE = "code"
    SYMBOLS = "symbols"
    BYTES = "bytes"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One member that two wheels don't have alike; what: the sections or names, a few words."""

    member: str
    how: How
    what: str = ""


def differences(here: zipfile.ZipFile, there: zipfile.ZipFile) -> tuple[Difference, ...]:
    """Of two wheels that can be read, by member; the order of members and their headers is not
    looked at."""
    mine, others = ({info.filename: info for info in one.infolist()} for one in (here, there))
    found = [Difference(member=name, how=How.HERE) for name in mine if name not in others]
    found += [Difference(member=name, how=How.THERE) for name in others if name not in mine]
    for name in mine:
        if name in others:
            if alike(mine[name], others[name]) and sha256(here.read(name)) == sha256(
                there.read(name)
            ):
                continue
            one = difference(name, here.read(name), there.read(name))
            found += [one] if one else []
    return tuple(sorted(found, key=lambda one: one.member))


def alike(mine: zipfile.ZipInfo, other: zipfile.ZipInfo) -> bool:
    return (mine.CRC, mine.file_size) == (other.CRC, other.file_size)


def difference(name: str, here: bytes, there: bytes) -> Difference | None:
    """How one member differs; None if it doesn't."""
    if here == there:
        return None
    if here[:4] == there[:4] == b"\x7fELF":
        return of_objects(name, here, there)
    if name.endswith(".py"):
        return of_python(name, here, there)
    return Difference(member=name, how=How.BYTES)


def of_objects(name: str, here: bytes, there: bytes) -> Difference:
    try:
        mine, other = (ELFFile(io.BytesIO(content)) for content in (here, there))
        code = other_names(code_of(mine), code_of(other))
        symbols = other_names(symbols_of(mine), symbols_of(other))
    except (ELFError, ValueError, KeyError, AttributeError, TypeError, IndexError):
        return Difference(member=name, how=How.CODE, what="one of the two can't be read")
    if code:
        return Difference(member=name, how=How.CODE, what=", ".join(code))
    if symbols:
        return Difference(member=name, how=How.SYMBOLS, what=", ".join(symbols[:5]))
    return Difference(member=name, how=How.BYTES)


def code_of(file: ELFFile) -> dict[str, Any]:
    """What is executed and read while it runs: by section, its hash."""
    found: dict[str, Any] = {}
    for number, section in enumerate(file.iter_sections()):
        loaded = section["sh_flags"] & 2 or section.name in GPU  # SHF_ALLOC
        beside = section.name.startswith(BESIDE) or section.name in TABLES
        if loaded and not beside and section["sh_type"] != NO_BITS:
            key = section.name if section.name not in found else f"{section.name}#{number}"
            found[key] = sha256(section.data())
    return found


# How a loader finds symbols: they are compared as symbols.
TABLES = (".dynsym", ".dynstr", ".hash")


def symbols_of(file: ELFFile) -> dict[str, Any]:
    """What is offered and asked for, by name: how it is bound and of what type."""
    found: dict[str, Any] = {}
    table = file.get_section_by_name(".dynsym")
    if isinstance(table, SymbolTableSection):
        for one in table.iter_symbols():
            info = one["st_info"]
            offered = one["st_shndx"] != "SHN_UNDEF"
            found[one.name] = (info["bind"], info["type"], offered)
    return found


def other_names(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    return sorted(name for name in {*here, *there} if here.get(name) != there.get(name))


def of_python(name: str, here: bytes, there: bytes) -> Difference:
    """Whether Python would do something else: comments and blanks are bytes alone."""
    try:
        mine, other = (ast.parse(content) for content in (here, there))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Difference(member=name, how=How.CODE, what="one of the two can't be read")
    names = other_names(defined(mine), defined(other))
    if names:
        return Difference(member=name, how=How.SYMBOLS, what=", ".join(names[:5]))
    if ast.dump(mine) != ast.dump(other):
        return Difference(member=name, how=How.CODE)
    return Difference(member=name, how=How.BYTES)


def defined(tree: ast.Module) -> dict[str, Any]:
    """The functions and classes of a module, by name."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name: type(node).__name__ for node in tree.body if isinstance(node, kinds)}
