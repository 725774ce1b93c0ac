# SPDX-License-Identifier: Apache-2.0
"""pytest on all cores: a worker a core, each with whole files and its share of the threads."""

from __future__ import annotations

import os
from collections.abc import Sequence

from recipe.compile.toolchain.jobs import choose_jobs, free_memory, processors

# What a worker takes at most, the processes that its tests start included.
WORKER_BYTES = 3 << 30
# A debugger has the terminal to itself.
ALONE = frozenset({"--pdb", "--trace"})


def workers() -> int:
    """As many as there are cores to use, or as memory holds."""
    return choose_jobs(None, processors(), free_memory(), WORKER_BYTES)[0]


def options(count: int, given: Sequence[str] = ()) -> list[str]:
    """What pytest is told before what the reader gives it, who may say otherwise: ``-n 0``.

    A file stays in one worker, since its tests share what they made, and files are begun in the
    order they were collected in. One worker is pytest itself: nothing is started beside it. A
    worker that dies ends the run: another would begin its file again and die there too.
    """
    if count < 2 or ALONE & set(given):
        return []
    several = ["-n", str(count), "--dist", "loadfile", "--no-loadscope-reorder"]
    return [*several, "--max-worker-restart", "0"]


def environment(count: int) -> dict[str, str]:
    """The variables of pytest: torch and NumPy would start a thread a core in each worker."""
    if count < 2 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, processors() // count))}
