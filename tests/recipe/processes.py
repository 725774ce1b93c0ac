# SPDX-License-Identifier: Apache-2.0
"""Processes that a command left, found by a variable that only its environment has."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

MARK = "SM12X_TEST_MARK"


def marked(mark: str) -> list[str]:
    """The commands of all processes whose environment has MARK=mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append(command.strip())
        except OSError:
            continue  # it ended, or it is another user's
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60) -> bool:
    """Whether the condition came to hold in that time."""
    patience = time.monotonic() + seconds
    while time.monotonic() < patience:
        if condition():
            return True
        time.sleep(0.02)
    return False
