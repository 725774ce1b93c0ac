# SPDX-License-Identifier: Apache-2.0
"""Pages of files in the page cache: which are there, bringing them in, giving them back.

Linux only; see mincore(2) and posix_fadvise(2). Since Linux 5.2 mincore tells the truth only to who
owns a file or may write to it, and says of other files that all is there: then nothing is known.
"""

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

PAGE = mmap.PAGESIZE
# What mincore looks at in one call, so that its answer stays small.
_LOOK = 1 << 30
# A file larger than so many samples of so many bytes isn't looked at page by page.
_SAMPLES, _SAMPLE = 16, 4 << 20
# A longer request is silently cut to the device's read-ahead or its optimal size.
CALL = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
_FAILED = ctypes.c_void_p(-1).value


def is_ours(fd: int) -> bool:
    """Whether this process owns the file or may write to it: then its pages are ours to advise."""
    owner = os.fstat(fd).st_uid
    return os.geteuid() in (0, owner) or os.access(f"/proc/self/fd/{fd}", os.W_OK)


def count_resident(fd: int, start: int, end: int) -> int | None:
    """Return how many pages of [start, end) are in the page cache, or None if that isn't told.

    `end` may not be beyond the end of the file.
    """
    if start >= end:
        return 0
    if not is_ours(fd):
        return None
    total = 0
    first = start - start % PAGE
    for begin in range(first, end, _LOOK):
        length = min(_LOOK, end - begin)
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, begin)
        if address == _FAILED:
            return None
        pages = (ctypes.c_ubyte * -(-length // PAGE))()
        failed = _libc.mincore(address, length, ctypes.addressof(pages))
        _libc.munmap(address, length)
        if failed:
            return None
        # The lowest bit of each byte counts; the others are reserved.
        total += sum(bytes(pages).translate(_LOWEST_BIT))
    return total


_LOWEST_BIT = bytes(value & 1 for value in range(256))


def is_resident(fd: int, start: int, end: int) -> bool:
    """Whether all pages of [start, end) are known to be in the page cache."""
    pages = -(-end // PAGE) - start // PAGE
    return start >= end or count_resident(fd, start, end) == pages


def share_resident(paths: Iterable[str]) -> float | None:
    """Return the share of these files that is in the page cache, or None if that isn't told.

    Large files are sampled. Raises OSError when a file can't be opened.
    """
    found = looked_at = 0.0
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            pages = seen = 0
            for start, end in samples(size):
                resident = count_resident(fd, start, end)
                if resident is None:
                    return None
                seen += resident
                pages += -(-end // PAGE) - start // PAGE
        finally:
            os.close(fd)
        if pages:
            found += size * seen / pages
            looked_at += size
    return found / looked_at if looked_at else 0.0


def samples(size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges that stand for a file of `size` bytes: all of it, or pieces spread over it."""
    if size <= _SAMPLES * _SAMPLE:
        yield 0, size
        return
    step = (size - _SAMPLE) // (_SAMPLES - 1)
    for index in range(_SAMPLES):
        start = index * step // PAGE * PAGE
        yield start, start + _SAMPLE


def warm_by_advice(fd: int, start: int, end: int, stopped: Callable[[], bool]) -> None:
    """Have the kernel read [start, end) and no more; wait for its last page unless `stopped`."""
    for begin in range(start, end, CALL):
        if stopped():
            return
        os.posix_fadvise(fd, begin, min(CALL, end - begin), os.POSIX_FADV_WILLNEED)
    os.pread(fd, 1, end - 1)


def warm_by_pipe(fd: int, start: int, end: int, stopped: Callable[[], bool]) -> None:
    """Have [start, end) read, and pass the pages through a pipe to nowhere, which copies nothing.

    As for any reader in sequence the kernel makes large folios, which cost less to read and to map
    than the single pages that it makes upon advice. It also reads ahead beyond `end`.
    """
    with ExitStack() as stack:
        source, sink = os.pipe2(os.O_CLOEXEC)
        nowhere = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        for opened in (source, sink, nowhere):
            stack.callback(os.close, opened)
        with suppress(OSError):  # a user with many pipes gets small ones, which do as well
            fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, CALL)
        while start < end and not stopped():
            try:
                got = os.splice(fd, sink, min(CALL, end - start), offset_src=start)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                _warm_by_reading(fd, start, end, stopped)
                return
            if not got:
                return  # the file has become shorter, which the load itself reports
            start += got
            while got:
                got -= os.splice(source, nowhere, got)


def _warm_by_reading(fd: int, start: int, end: int, stopped: Callable[[], bool]) -> None:
    """Read [start, end), from a file system that knows no pipes."""
    buffer = bytearray(min(CALL, end - start))
    while start < end and not stopped():
        got = os.preadv(fd, [memoryview(buffer)[: end - start]], start)
        if not got:
            return
        start += got


def map_private(fd: int, start: int, length: int) -> int:
    """Map bytes of a file from page `start` on, copy on write, and return the address."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    address = _libc.mmap(None, length, protection, mmap.MAP_PRIVATE, fd, start)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}: {length} bytes of a file can't be mapped")
    return int(address)


def unmap(address: int, length: int) -> None:
    """End a mapping."""
    _libc.munmap(address, length)


def give_back(fd: int, start: int = 0, end: int = 0) -> None:
    """Drop the clean, unmapped pages that lie wholly in [start, end); `end` 0 is the file's."""
    os.posix_fadvise(fd, start, max(0, end - start), os.POSIX_FADV_DONTNEED)


def give_back_files(paths: Iterable[str]) -> None:
    """Drop the pages of whole files, those that are ours to advise."""
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if is_ours(fd):
                give_back(fd)
        finally:
            os.close(fd)


def read_ahead_kib(path: str) -> int | None:
    """Return the read-ahead of the device that holds `path`, in KiB; None if sysfs doesn't say."""
    try:
        device = Path(path).stat().st_dev
        bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        return int(bdi.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
