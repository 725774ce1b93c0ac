# SPDX-License-Identifier: Apache-2.0
"""The GPU code in a shared object, as CUDA's fat binaries hold it.

nvcc puts one container for each translation unit into the section ``.nv_fatbin``, and in it one
entry for each architecture: machine code (a cubin, itself an ELF file) or PTX, plain or compressed.
An entry's header says what it is for. Whether sm_120 means 120, 120a or 120f stands in two bits of
its flags; neither the ELF flags of the cubin nor ``cuobjdump --list-elf`` tell 120f from 120. The
container has no public description; the tests hold this reading against cuobjdump's.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import lz4.block
import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

# The second is for code that is linked on the device (nvcc -rdc).
SECTIONS = (".nv_fatbin", "__nv_relfatbin")
CONTAINER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of the entries
MAGIC = 0xBA55ED50
ALIGNMENT = 8
ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
LZ4, ZSTD = 0x2000, 0x8000
SPECIFIC, FAMILY = 0x100000, 0x200000  # sm_120a, sm_120f
SYMBOL = struct.Struct("<IBBHQQ")
FUNCTION, IS_KERNEL = 2, 0x10  # in a symbol's info and other
PTX_KERNEL = re.compile(rb"\.entry\s+([\w$.]+)")
# No cubin or PTX that anybody ships is near this; a damaged length would ask for all memory.
LARGEST = 1 << 29
MOST_BY_LZ4 = 255  # bytes that one byte of LZ4 may become
# What damage comes out as: of struct and the unpackers, and of pyelftools, which trusts the file it
# reads (a section that links to itself, an offset no seek takes, a name that isn't UTF-8).
DAMAGE = (
    ELFError,
    struct.error,
    zlib.error,
    zstandard.ZstdError,
    lz4.block.LZ4BlockError,
    ValueError,
    OverflowError,
    RecursionError,
    LookupError,
    AttributeError,
    TypeError,
)


class Kind(StrEnum):
    SASS = "sass"
    PTX = "ptx"


KINDS = {1: Kind.PTX, 2: Kind.SASS}


class BadCode(Exception):
    """The bytes are no ELF file, or its fat binary isn't in a form this module knows."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """Code for one target, such as ``12.0f``; kernels are mangled names."""

    kind: Kind
    target: str
    kernels: frozenset[str]


def read(content: bytes) -> list[list[Image]]:
    """The images of each translation unit of a shared object, in order; none without GPU code.

    Raises BadCode.
    """
    try:
        elf = ELFFile(io.BytesIO(content))
        found = [elf.get_section_by_name(name) for name in SECTIONS]
        # Slices, not copies: vLLM's largest section has 300 MB.
        whole = memoryview(content)
        sections = [
            whole[one["sh_offset"] : one["sh_offset"] + one["sh_size"]] for one in found if one
        ]
        return [images for section in sections for images in containers(section)]
    except DAMAGE as error:
        raise BadCode(f"{type(error).__name__}: {error}") from None


def containers(data: memoryview) -> Iterator[list[Image]]:
    """Go through a section; containers are aligned, so zeros may stand between them."""
    at = 0
    while at + CONTAINER.size <= len(data):
        magic, _, header, size = CONTAINER.unpack_from(data, at)
        if magic != MAGIC:
            if any(data[at : at + ALIGNMENT]):
                raise BadCode(f"no fat binary at byte {at} of its section")
            at += ALIGNMENT
            continue
        start, end = at + header, at + header + size
        if header < CONTAINER.size or end > len(data):
            raise BadCode("a fat binary doesn't fit its section")
        yield list(entries(data, start, end))
        at = end + -end % ALIGNMENT


def entries(data: memoryview, at: int, end: int) -> Iterator[Image]:
    """The images of one container; entries of another kind (LTO) are nothing a device runs."""
    while at < end:
        kind, _, header, size, packed, _, _, _, arch, _, _, flags, _, plain = ENTRY.unpack_from(
            data, at
        )
        if header < ENTRY.size or at + header + size > end:
            raise BadCode("an entry of a fat binary is longer than its container")
        payload = bytes(data[at + header : at + header + (packed or size)])
        if kind in KINDS:
            code = unpacked(payload, flags, plain)
            names = cubin_kernels(code) if KINDS[kind] == Kind.SASS else ptx_kernels(code)
            yield Image(kind=KINDS[kind], target=target_name(arch, flags), kernels=names)
        at += header + size


def target_name(arch: int, flags: int) -> str:
    """120 with its flags as ``12.0f``."""
    suffix = "f" if flags & FAMILY else "a" if flags & SPECIFIC else ""
    return f"{arch // 10}.{arch % 10}{suffix}"


def unpacked(payload: bytes, flags: int, size: int) -> bytes:
    packed_as = zstandard.frame_content_size(payload) if flags & ZSTD else 0
    if max(size, packed_as) > LARGEST or (flags & LZ4 and size > MOST_BY_LZ4 * len(payload)):
        raise BadCode(f"an image of {max(size, packed_as)} bytes in {len(payload)}")
    if flags & ZSTD:
        return zstandard.ZstdDecompressor().decompress(payload, max_output_size=size)
    if flags & LZ4:
        return bytes(lz4.block.decompress(payload, uncompressed_size=size))
    return payload


def cubin_kernels(cubin: bytes) -> frozenset[str]:
    """The kernels that a cubin defines, by its symbol table."""
    elf = ELFFile(io.BytesIO(cubin))
    table = elf.get_section_by_name(".symtab")
    if table is None:
        return frozenset()
    names = elf.get_section(table["sh_link"]).data()
    # Read as a whole: a library object for each of some 100,000 symbols takes a minute.
    return frozenset(
        names[name : names.index(b"\0", name)].decode()
        for name, info, other, section, _, _ in SYMBOL.iter_unpack(table.data())
        if other & IS_KERNEL and info & 0xF == FUNCTION and section
    )


def ptx_kernels(text: bytes) -> frozenset[str]:
    return frozenset(name.decode() for name in PTX_KERNEL.findall(text))
