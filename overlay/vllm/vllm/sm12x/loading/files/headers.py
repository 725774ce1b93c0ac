# SPDX-License-Identifier: Apache-2.0
"""The headers of safetensors files, read without touching a page of the data.

The format is 8 bytes (the header's length, little-endian), JSON, and data. What is valid and in
which order tensors come is left to the library: it is shown a file in memory that has the header
and the length of the real one, and no data. To open the real file would map it, and the kernel
would read ahead up to 8 MiB of each shard that nobody has asked for.
"""

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

# Bits of one element. What isn't here is left to the library.
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor in a file: its bytes are [start, end) of the file. `dtype` None is a library's."""

    name: str
    dtype: Any
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """A file's tensors in the order in which the library gives them, and its size in bytes."""

    entries: tuple[Entry, ...]
    data_start: int
    size: int


def read_header(fd: int) -> Header:
    """Read and check the header of an open file.

    Raises the library's SafetensorError for what the library refuses, OSError if it can't be read.
    """
    size = os.fstat(fd).st_size
    head = os.pread(fd, 8, 0)
    length = int.from_bytes(head, "little")
    if len(head) == 8 and 8 + length <= size:
        head += _read(fd, 8, length)
    order = _order_of_the_library(head, size)
    described = json.loads(head[8:])
    start = 8 + length
    entries = tuple(_entry(name, described[name], start) for name in order)
    return Header(entries=entries, data_start=start, size=size)


def _order_of_the_library(head: bytes, size: int) -> list[str]:
    from safetensors import safe_open

    fd = os.memfd_create("vllm-sm12x-header", os.MFD_CLOEXEC)
    try:
        with Path(f"/proc/self/fd/{fd}").open("wb") as file:
            file.write(head[:size])
            file.truncate(size)
        with safe_open(f"/proc/self/fd/{fd}", framework="pt") as opened:
            return list(opened.keys())
    finally:
        os.close(fd)


def _entry(name: str, described: dict[str, Any], data_start: int) -> Entry:
    begin, end = described["data_offsets"]
    shape = tuple(described["shape"])
    return Entry(
        name=name,
        dtype=_dtype(described["dtype"], shape, end - begin),
        shape=shape,
        start=data_start + begin,
        end=data_start + end,
    )


def _dtype(name: str, shape: tuple[int, ...], size: int) -> Any:
    """Return torch's dtype, or None where only the library knows what it makes of these bytes."""
    import torch

    if name not in _NAMES or prod(shape) * _BITS[name] != 8 * size:
        return None
    return getattr(torch, _NAMES[name], None)


def _read(fd: int, start: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(fd, length, start)
        if not part:
            break
        parts.append(part)
        start, length = start + len(part), length - len(part)
    return b"".join(parts)
