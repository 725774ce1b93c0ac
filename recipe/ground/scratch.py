# SPDX-License-Identifier: Apache-2.0
"""Folders and files that are either whole or not there: temporary ones, and those asked for.

A temporary folder has a lock file beside it, which the kernel frees with the process: one whose
lock can be had belongs to a run that was killed, and the next run clears it away. A process number
wouldn't do, since containers may share a cache.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipe.ground.errors import UsageError


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
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{target} exists and is not empty",
            means="Only a new folder is written to, so that no work is lost.",
            next=f"name another folder with {option}",
        )
    temporary = target.with_name(f".{target.name}.half-written")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """The file, replaced in one step: a reader or a killed run never has half of it.

    What a killed run left is overwritten, so two runs mustn't write the same file at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.half-written")
    temporary.write_bytes(content)
    temporary.replace(path)


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
