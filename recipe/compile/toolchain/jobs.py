# SPDX-License-Identifier: Apache-2.0
"""How many compilers at once: as many as memory holds, by what one was seen to take."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from recipe.ground.errors import MachineError
from recipe.ground.scratch import write_whole

# What one nvcc takes where nothing was measured yet: Marlin's sources peak at about 3 GB.
UNKNOWN_PEAK_BYTES = 3 << 30
# Left to the rest of the machine.
SPARE_BYTES = 1 << 30
PEAKS = "peaks.json"


def choose_jobs(asked: int | None, cpus: int, free: int, peak: int) -> tuple[int, str]:
    """The number of jobs and why; `free` and `peak` in bytes."""
    if asked is not None:
        return asked, f"{asked}, as asked"
    fitting = max(1, (free - SPARE_BYTES) // max(peak, 1))
    jobs = min(cpus, fitting)
    reason = "processors" if jobs == cpus else f"memory, at {peak / 2**30:.1f} GiB a compiler"
    return jobs, f"{jobs}, as {reason} allow{'s' if jobs != cpus else ''}"


def processors(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that we may use: those we may run on, within every quota above us."""
    allowed = len(os.sched_getaffinity(0))
    return min([allowed, *(count for group in groups(proc, cgroup) for count in quota(group))])


def quota(group: Path) -> list[int]:
    """Whole processors that a group's limit on their time comes to, at least one."""
    try:
        most, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return [] if most == "max" else [max(1, int(most) // int(period))]
    except (OSError, ValueError, ZeroDivisionError):
        return []


def free_memory(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can be had: the machine's available memory, within every limit above us."""
    text = (proc / "meminfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^MemAvailable:\s*(\d{1,15})\b", text, re.M)
    if found is None:
        raise MachineError(
            f"{proc / 'meminfo'} doesn't say how much memory is available",
            means="So it is unknown how many compilers may run at once.",
            next="say it: --jobs 4",
        )
    free = int(found[1]) << 10
    return min([free, *(left for group in groups(proc, cgroup) for left in room(group))])


def groups(proc: Path, cgroup: Path) -> list[Path]:
    """Our control group and those above it (version 2)."""
    try:
        lines = os.fsdecode((proc / "self" / "cgroup").read_bytes()).splitlines()
    except OSError:
        return []
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        return []
    place = cgroup / own.lstrip("/")
    return [p for p in (place, *place.parents) if p.is_relative_to(cgroup)]


def room(group: Path) -> list[int]:
    """What a group's limit leaves; page cache that can be dropped counts as free."""
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        if limit == "max":
            return []
        used = int((group / "memory.current").read_text(encoding="utf-8"))
        stat = dict(
            line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines()
        )
        return [int(limit) - used + int(stat.get("inactive_file", 0))]
    except (OSError, ValueError):
        return []


def killed_for_memory(proc: Path = Path("/proc")) -> int:
    """How often the kernel has killed a process for lack of memory since it started."""
    text = (proc / "vmstat").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^oom_kill (\d{1,18})$", text, re.M)
    return int(found[1]) if found else 0


def peak_of(folder: Path, components: tuple[str, ...]) -> int:
    """Bytes that one compiler of these components took at most, as far as it was measured."""
    known = read_peaks(folder)
    return max((known.get(name, UNKNOWN_PEAK_BYTES) for name in components), default=0)


def remember_peak(folder: Path, components: tuple[str, ...], peak: int) -> None:
    """Keep the peak of a compile; of several at once, each may have been the largest."""
    known = read_peaks(folder)
    for name in components:
        known[name] = max(peak, known.get(name, 0))
    write_whole(folder / PEAKS, json.dumps(known, indent=1, sort_keys=True).encode())


def read_peaks(folder: Path) -> dict[str, int]:
    try:
        found = json.loads((folder / PEAKS).read_text(encoding="utf-8"))
        return {str(name): int(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}
