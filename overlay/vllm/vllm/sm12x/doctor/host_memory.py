# SPDX-License-Identifier: Apache-2.0
"""The host's memory as a GPU that shares it sees it: what is free, and in which pieces.

On GB10 the GPU allocates from free pages: the page cache of a download or an earlier load isn't
free, though MemAvailable counts it, and pieces below 2 MiB don't serve. See proc_meminfo(5) and
proc_buddyinfo(5). The facts are read by `look`; `shown` and `changes`, which are pure, say them
and what to change.
"""

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SYSFS_BDI = Path("/sys/class/bdi")
LARGE = 2 << 20
GIB = 1 << 30
# Below this share of MemAvailable the page cache is what keeps memory from the GPU.
_FREE_SHARE = 0.5
_LITTLE_READ_AHEAD_KIB = 1024
# Kept for the system and for vLLM's own processes where they share the GPU's memory: a reasoned
# figure, not a measured one.
_KEPT = 8 * GIB


@dataclass(frozen=True, kw_only=True)
class HostMemory:
    """Bytes, but for `read_ahead_kib`, which is by device: `major:minor`.

    `large_free` is free memory in blocks of at least 2 MiB, None where the kernel doesn't tell.
    """

    total: int
    free: int
    available: int
    large_free: int | None
    swap_total: int
    swap_free: int
    page: int
    read_ahead_kib: tuple[tuple[str, int], ...] = ()


def look(proc: Path = PROC, bdi: Path = SYSFS_BDI, page: int = mmap.PAGESIZE) -> HostMemory | None:
    """Return what the kernel says, or None where it doesn't say (not Linux)."""
    try:
        text = (proc / "meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    known = {
        name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)
    }
    if not {"MemTotal", "MemFree", "MemAvailable"} <= known.keys():
        return None
    return HostMemory(
        total=known["MemTotal"],
        free=known["MemFree"],
        available=known["MemAvailable"],
        large_free=_large_free(proc / "buddyinfo", page),
        swap_total=known.get("SwapTotal", 0),
        swap_free=known.get("SwapFree", 0),
        page=page,
        read_ahead_kib=tuple(_read_aheads(bdi)),
    )


def _large_free(buddyinfo: Path, page: int) -> int | None:
    """Add up the free blocks of 2 MiB and more: a column each power of two of pages."""
    try:
        lines = buddyinfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    total = 0
    for line in lines:
        counts = line.partition("zone")[2].split()[1:]
        for order, count in enumerate(counts):
            size = page << order
            total += size * int(count) if size >= LARGE else 0
    return total


def _read_aheads(bdi: Path) -> Iterator[tuple[str, int]]:
    for file in sorted(bdi.glob("[0-9]*:[0-9]*/read_ahead_kb")):
        try:
            yield file.parent.name, int(file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue


def shown(memory: HostMemory) -> list[str]:
    """Return what there is, as lines of text."""
    large = "unknown" if memory.large_free is None else _gib(memory.large_free)
    lines = [
        f"{_gib(memory.free)} free, {_gib(memory.available)} available of {_gib(memory.total)}; "
        f"free in blocks of 2 MiB and more: {large}; swap {_gib(memory.swap_free)} free of "
        f"{_gib(memory.swap_total)}; pages of {memory.page >> 10} KiB"
    ]
    ahead = [(device, kib) for device, kib in memory.read_ahead_kib if kib]
    if ahead:
        lines.append("read-ahead " + ", ".join(f"{kib} KiB on {device}" for device, kib in ahead))
    slow = [device for device, kib in ahead if kib < _LITTLE_READ_AHEAD_KIB]
    if slow:
        lines.append(
            f"lazy loading is slow with little read-ahead, as on {', '.join(slow)}; a window or a "
            "stream (VLLM_SM12X_LOADING) doesn't depend on it"
        )
    return lines


def safe_utilization(memory: HostMemory) -> float:
    """Return the largest --gpu-memory-utilization that fits what is free, in hundredths.

    vLLM refuses to start where less than that share of all memory is free.
    """
    return max(0, 100 * (memory.free - _KEPT) // memory.total) / 100


def changes(memory: HostMemory) -> list[str]:
    """Return what to change where the GPU allocates from this memory."""
    said = []
    if memory.free < _FREE_SHARE * memory.available:
        said.append(
            "Most of what is available is page cache, which the GPU doesn't get: vLLM sees "
            f"{_gib(memory.free)}. Before a start: sync; echo 1 > /proc/sys/vm/drop_caches (root)."
        )
    if memory.large_free is not None and memory.large_free < memory.free // 2:
        said.append(
            "Free memory is in small pieces, and the GPU needs 2 MiB at a time. Before a start: "
            "echo 1 > /proc/sys/vm/compact_memory (root)."
        )
    if memory.swap_total:
        said.append(
            "With swap the kernel may move the engine's memory to the disk while it loads. For a "
            "server: swapoff -a (root)."
        )
    return said


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
