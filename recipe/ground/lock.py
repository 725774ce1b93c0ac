# SPDX-License-Identifier: Apache-2.0
"""One holder at a time for what two runs could share; the kernel frees it when a run is killed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from recipe.ground.digest import sha256
from recipe.ground.errors import MachineError
from recipe.ground.log import say

PATIENCE_SECONDS = 6 * 3600


@contextmanager
def hold(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; say so when another run has it, and wait."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"{path.parent} can't be made: {error.strerror}",
            next="name a folder that can be written: SM12X_CACHE=DIR python build.py ...",
        ) from None
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another run is using {what}; waiting for it ({path})")
        try:
            lock.acquire(timeout=PATIENCE_SECONDS)
        except Timeout:
            raise MachineError(
                f"another run has held {what} for {PATIENCE_SECONDS // 3600} hours",
                next=f"look for it with: fuser {path}",
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def hold_folder(folder: Path, cache: Path, what: str) -> Iterator[None]:
    """Hold a folder for whoever writes it, by whatever cache; nothing is left in it.

    Where its disk has no locks for folders, those who use the same cache still wait.
    """
    with hold(cache / "locks" / f"folder-{sha256(str(folder.resolve()).encode())[:16]}.lock", what):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):
                wait_for(number, what)
            yield
        finally:
            os.close(number)


def wait_for(number: int, what: str) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another run is using {what}; waiting for it")
        fcntl.flock(number, fcntl.LOCK_EX)
