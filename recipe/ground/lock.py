# SPDX-License-Identifier: Apache-2.0
"""One holder at a time for what two runs could share; the kernel frees it when a run is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

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
