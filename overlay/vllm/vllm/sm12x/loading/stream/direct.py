# SPDX-License-Identifier: Apache-2.0
"""Reads that pass the page cache by: whether a file allows them, and how they must be aligned.

See O_DIRECT in open(2) and STATX_DIOALIGN in statx(2), which is answered since Linux 6.1 by the
file systems that know. Others are tried with a page.
"""

import ctypes
import mmap
import os
import weakref
from dataclasses import dataclass

_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
# Places in struct statx: the mask of what was answered, and the two alignments.
_MASK, _MEMORY, _OFFSET = 0, 152, 156


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Multiples in bytes at which reads must begin and end, in memory and in the file."""

    memory: int = mmap.PAGESIZE
    offset: int = mmap.PAGESIZE


class Direct:
    """A descriptor that reads past the page cache; it is closed when this object goes."""

    def __init__(self, fd: int, alignment: Alignment) -> None:
        self.fd, self.alignment = fd, alignment
        weakref.finalize(self, os.close, fd).atexit = False


def open_direct(fd: int) -> Direct | None:
    """Open an open file once more, for reads past the page cache; None where it isn't allowed."""
    alignment = ask_alignment(fd)
    if alignment is None:
        return None
    try:
        direct = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return None
    buffer = mmap.mmap(-1, max(mmap.PAGESIZE, alignment.offset))
    try:
        os.preadv(direct, [memoryview(buffer)[: alignment.offset]], 0)
    except OSError:
        os.close(direct)
        return None
    return Direct(direct, alignment)


def ask_alignment(fd: int) -> Alignment | None:
    """Return how reads of a file must be aligned, a page if it can't be told; None: not at all."""
    answer = (ctypes.c_ubyte * 256)()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "statx"):
        return Alignment()
    failed = libc.statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, answer)
    if failed or not _word(answer, _MASK) & _STATX_DIOALIGN:
        return Alignment()
    memory, offset = _word(answer, _MEMORY), _word(answer, _OFFSET)
    if not offset or memory > mmap.PAGESIZE:
        return None
    return Alignment(memory=memory, offset=offset)


def _word(answer: "ctypes.Array[ctypes.c_ubyte]", at: int) -> int:
    return int.from_bytes(bytes(answer[at : at + 4]), "little")
