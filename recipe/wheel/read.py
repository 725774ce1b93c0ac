# SPDX-License-Identifier: Apache-2.0
"""Read a wheel that somebody hands in: it may be cut off, damaged, or no wheel at all."""

from __future__ import annotations

import csv
import errno
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipe.ground.errors import AuditError
from recipe.objects.gate.members import check_members
from recipe.objects.gate.names import escaped

# What zipfile lets through of an archive it can't read: RuntimeError is an encrypted member and, as
# NotImplementedError, a method it doesn't know; OSError is bzip2's.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    OverflowError,
    LookupError,
    ValueError,
)
# The same where other code runs as well: what else that raises is its own.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
)
ENCRYPTED = 1  # in a member's flags
# A member says its size in advance. Code beyond 2 GiB can't be linked for x86_64's small model,
# and metadata is text of some ten thousand bytes.
LARGEST_OBJECT = 1 << 31
LARGEST_TEXT = 1 << 24


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive; AuditError if the file is none, or the block finds a member that is damaged,
    FileNotFoundError if there is no file."""
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise no_wheel(path, str(error)) from None
    with archive:
        check_members(archive, lambda name, why: no_wheel(path, f"its member {name} {why}"))
        for info in archive.infolist():
            if info.flag_bits & ENCRYPTED:
                raise no_wheel(path, f"its member {escaped(info.filename)} is encrypted")
        try:
            yield archive
        except DAMAGED as error:
            raise no_wheel(path, str(error)) from None
        except OSError as error:
            # bzip2's has no number; zipfile seeks where a damaged member says it lies.
            if error.errno not in (None, errno.EINVAL):
                raise
            raise no_wheel(path, str(error)) from None


def content_of(archive: zipfile.ZipFile, path: Path, member: str, largest: int) -> bytes:
    """One member of `path`, unpacked; AuditError if it can't be, or has more than `largest` bytes.

    No more than the size it says in advance is unpacked.
    """
    try:
        size = archive.getinfo(member).file_size
        if size <= largest:
            return archive.read(member)
    except UNREADABLE as error:
        raise no_wheel(path, f"{member}: {error}") from None
    raise AuditError(
        f"{path.name}: {member} has {size} bytes unpacked",
        means=f"No such member has more than {largest}; it was not unpacked.",
        next="fetch or build the wheel again",
    )


def dist_info(wheel: zipfile.ZipFile) -> str:
    found = {n.split("/", 1)[0] for n in wheel.namelist() if n.endswith(".dist-info/WHEEL")}
    if len(found) != 1:
        raise AuditError(
            f"{wheel.filename} is not a wheel: it has {len(found)} .dist-info folders",
            next="name a .whl file",
        )
    return found.pop()


def read_record(wheel: zipfile.ZipFile, info: str) -> dict[str, tuple[str, str]]:
    """(hash, size) of each member as RECORD has them; AuditError if it can't be read."""
    path = Path(wheel.filename or "the wheel")
    content = content_of(wheel, path, f"{info}/RECORD", LARGEST_TEXT)
    try:
        rows = [row for row in csv.reader(content.decode().splitlines()) if row]
        return {name: (digest, size) for name, digest, size in rows}
    except (ValueError, csv.Error) as error:
        raise no_wheel(path, f"{info}/RECORD: {error}") from None


def no_wheel(path: Path, why: str) -> AuditError:
    return AuditError(
        f"{path.name} is not a wheel, is cut off or damaged: {why}",
        means="A wheel is a zip archive with a .dist-info folder; nothing of it was used.",
        next="fetch or build the wheel again",
    )
