# SPDX-License-Identifier: Apache-2.0
"""Folders and files that are either whole or not there: temporary ones, and those asked for.

A temporary folder has a lock file beside it, which the kernel frees with the process: one whose
lock can be had belongs to a run that was killed, and the next run clears it away. A process number
wouldn't do, since containers may share a cache.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recipe.ground.errors import UsageError

HALF = ".half-written"


@contextmanager
def folder(cache: Path, what: str) -> Iterator[Path]:
    """A new folder below the cache, gone when the block ends."""
    place = cache / "tmp"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(prefix=f"{what}-", suffix=".lock", dir=place) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = Path(lock.name).with_suffix("")
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def whole(target: Path, option: str) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends well.

    `target` must not exist or be empty: otherwise UsageError, which names the option it came by.
    Of two runs that write the same one, the first has it and the other is told so.
    """
    with usable(target, option):
        check_free(target, option)
        target.parent.mkdir(parents=True, exist_ok=True)
    with beside(target) as temporary:
        yield temporary
        with usable(target, option):
            try:
                temporary.rename(target)
            except OSError:
                check_free(target, option)
                raise


@contextmanager
def usable(target: Path, option: str) -> Iterator[None]:
    """UsageError for what the system says of a badly named folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        raise UsageError(
            f"{option} {str(target)[:200]} can't be written: {error.strerror}",
            means="Nothing was written.",
            next=f"name another folder with {option}",
        ) from None


# What says that a folder was named badly, and not that the machine lacks something.
UNUSABLE = {
    errno.EACCES,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def check_free(target: Path, option: str) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{target} exists and is not empty",
            means="Only a new folder is written to, so that no work is lost.",
            next=f"name another folder with {option}",
        )


def check_writable(folder: Path, option: str) -> None:
    """Stop before work whose result can't be put into `folder`, which may not be there yet."""
    try:
        with suppress(FileNotFoundError):
            folder.lstat()
        above = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        longest = os.pathconf(above, "PC_NAME_MAX")
        if any(len(os.fsencode(part)) > longest for part in folder.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryDirectory(prefix=".vllm-sm12x-", dir=above):
            pass
    except OSError as error:
        raise UsageError(
            f"{option} {str(folder)[:200]} can't be written: {error.strerror}",
            means="Nothing was begun.",
            next=f"name another folder with {option}",
        ) from None


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, gone when the block ends; nobody else's is touched.

    The kernel frees its lock with the process: one whose lock can be had was left by a killed run.
    """
    clear_beside(target)
    while True:
        path = target.with_name(half_written(target))
        path.mkdir()
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            locked(held)
            if path.exists():  # a run that cleared between the two lines took it for a killed one's
                yield path
                return
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)


def half_written(target: Path) -> str:
    """A name of its own for what becomes `target`; short, where that one is long."""
    return f".{target.name[:80]}.{secrets.token_hex(4)}{HALF}"


def clear_beside(target: Path) -> None:
    """Remove what killed runs left of `target`, and only that."""
    pattern = re.compile(rf"\.{re.escape(target.name[:80])}\.[0-9a-f]{{8}}{re.escape(HALF)}")
    try:
        found = [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]
    except OSError:
        return
    for path in found:
        with suppress(OSError):
            held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if locked(held) and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif locked(held):
                    path.unlink(missing_ok=True)
            finally:
                os.close(held)


def locked(number: int) -> bool:
    """Whether the lock of an open file or folder could be had; some network disks have none."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_whole(
    path: Path, content: bytes, *, check: Callable[[Path], object] | None = None
) -> None:
    """The file, replaced in one step: a reader or a killed run never has half of it.

    It is written under a name of its own, which is never one that somebody else has laid there.
    check: looks at it before it takes its place; an error leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_beside(path)
    temporary = path.with_name(half_written(path))
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    number = os.open(temporary, new, 0o666)
    try:
        with os.fdopen(number, "wb") as stream:
            locked(stream.fileno())
            stream.write(content)
            stream.flush()
            if check is not None:
                check(temporary)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def clear(cache: Path) -> None:
    """Remove the folders of runs that are no more."""
    for path in (cache / "tmp").glob("*.lock"):
        try:
            with path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            continue  # in use, or just gone
