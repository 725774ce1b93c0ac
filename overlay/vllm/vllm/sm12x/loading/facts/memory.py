# SPDX-License-Identifier: Apache-2.0
"""How much memory the page cache can still get: the host's, and that of every control group above.

Page cache that can be reclaimed counts as available, as it does in MemAvailable; a control group
counts it as used. See proc_meminfo(5), and the kernel's cgroup-v1/memory and cgroup-v2 documents.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .filesystem import MOUNTINFO, Mount, read_mounts

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that can be had, and what sets that bound: `host`, or the folder of a control group."""

    available_bytes: int
    bound_by: str


def measure(
    meminfo: Path = MEMINFO, cgroup: Path = CGROUP, mountinfo: Path = MOUNTINFO
) -> Memory | None:
    """Return the tightest bound on memory, or None where the kernel doesn't tell."""
    try:
        available = _kibibytes(meminfo.read_text(encoding="ascii"), "MemAvailable:")
        memberships = os.fsdecode(cgroup.read_bytes())
    except OSError:
        return None
    if available is None:
        return None
    bounds = [Memory(available_bytes=available, bound_by="host")]
    for folder in cgroup_folders(memberships, read_mounts(mountinfo)):
        room = cgroup_headroom(folder)
        if room is not None:
            bounds.append(Memory(available_bytes=room, bound_by=str(folder)))
    return min(bounds, key=lambda bound: bound.available_bytes)


def cgroup_folders(memberships: str, mounts: Sequence[Mount]) -> list[Path]:
    """Return the folders of this process's memory control groups, each with all its parents.

    `memberships` is the text of /proc/self/cgroup. In a container the mount may start below the
    hierarchy's root, and the path may be out of sight: then the mount point stands for it.
    """
    folders: dict[Path, None] = {}
    for line in memberships.splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        unified = hierarchy == "0" and not controllers
        if not unified and "memory" not in controllers.split(","):
            continue
        for mount in mounts:
            v1 = mount.type == "cgroup" and "memory" in mount.options.split(",")
            if mount.type == "cgroup2" if unified else v1:
                top = Path(mount.point)
                leaf = top / _below(path, mount.root)
                above = [p for p in leaf.parents if p.is_relative_to(top)]
                folders.update(dict.fromkeys([leaf, *above]))
    return list(folders)


def _below(path: str, root: str) -> Path:
    """Return `path` as seen from a mount that shows the hierarchy from `root` on."""
    try:
        below = Path(path).relative_to(root)
    except ValueError:
        return Path()
    # /.. means outside this process's cgroup namespace.
    return Path() if ".." in below.parts else below


def cgroup_headroom(folder: Path) -> int | None:
    """Return the bytes one control group can still get, or None if it has no limit.

    The larger of nothing and limit - (usage - reclaimable page cache), for versions 1 and 2.
    """
    read = [_number(folder / f"memory.{name}") for name in ("max", "high", "limit_in_bytes")]
    limits = [limit for limit in read if limit is not None]
    if not limits:
        return None
    usage = _number(folder / "memory.current")
    usage = _number(folder / "memory.usage_in_bytes") if usage is None else usage
    return max(0, min(limits) - max(0, (usage or 0) - _reclaimable(folder)))


def _reclaimable(folder: Path) -> int:
    """Bytes of file pages and slab that reclaim can take, from memory.stat."""
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    stat = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
    v1 = ("total_active_file", "total_inactive_file")
    v2 = ("active_file", "inactive_file", "slab_reclaimable")
    return sum(stat.get(name, 0) for name in (v1 if v1[0] in stat else v2))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def _kibibytes(text: str, field: str) -> int | None:
    for line in text.splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None
