# SPDX-License-Identifier: Apache-2.0
"""Temporary folders that the next run clears away when this one is killed.

Each has a lock file beside it, which the kernel frees with the process: a folder whose lock can be
had belongs to nobody. A process number wouldn't do, since containers may share a cache.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
