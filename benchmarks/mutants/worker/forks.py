# SPDX-License-Identifier: Apache-2.0
"""Work done in a fork of this process, which is ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
from collections.abc import Callable

MEMORY = 8 << 30  # a mutant that allocates without end takes no more from the machine


def forked(work: Callable[[], str], limit: float) -> tuple[str, str]:
    """What `work` says in a fork of this process: the test that fails, or nothing.

    "died" if the fork ends without a word, "timed out" after `limit` seconds. Whatever it started
    is ended with it.
    """
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.close(out)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            try:
                said = work()
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"[:1000]
            os.write(into, b"!" + said.encode())
        finally:
            os._exit(0)
    os.close(into)
    ready, _, _ = select.select([out], [], [], limit)
    said = os.read(out, 4096).decode() if ready else ""
    os.close(out)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)  # it may have no group of its own yet
    os.waitpid(child, 0)
    if not ready:
        return "timed out", ""
    if not said:
        return "killed", "the process died"
    return ("killed", said[1:]) if said[1:] else ("survived", "")
