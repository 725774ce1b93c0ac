# SPDX-License-Identifier: Apache-2.0
"""Where the shards of a checkpoint really are: their sizes and the file systems that hold them.

The kernel is asked with statfs(2), once per device, behind every symbolic link. What statfs can't
tell apart (ext2/3/4, the many file systems behind FUSE, the layers of an overlay) is looked up in
/proc/self/mountinfo, see proc_pid_mountinfo(5). Linux only.
"""

import ctypes
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")


class Kind(str, Enum):
    """What a file system reads from, as far as reading ahead is concerned."""

    LOCAL = "local"  # a POSIX file system on a block device of this machine
    NETWORK = "network"  # one that upstream prefetches from, too
    MEMORY = "memory"  # the files are in memory already
    UNKNOWN = "unknown"  # can't be told, or nobody has tried


_KINDS = {
    **dict.fromkeys(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs"), Kind.LOCAL),
    **dict.fromkeys(("nfs", "nfs4", "lustre"), Kind.NETWORK),
    **dict.fromkeys(("tmpfs", "ramfs", "hugetlbfs"), Kind.MEMORY),
}

# f_type of statfs(2), from linux/magic.h, OpenZFS and Lustre; the names share one magic.
_MAGICS: dict[int, tuple[str, ...]] = {
    0xEF53: ("ext2", "ext3", "ext4"),
    0x58465342: ("xfs",),
    0x9123683E: ("btrfs",),
    0x2FC12FC1: ("zfs",),
    0x6969: ("nfs", "nfs4"),
    0x0BD00BD0: ("lustre",),
    0x01021994: ("tmpfs",),
    0x858458F6: ("ramfs",),
    0x958458F6: ("hugetlbfs",),
}

# Identifiers, device, root, mount point, mount options, optional fields, type, source, options.
_MOUNTINFO_LINE = re.compile(
    r"^\d+ \d+ (?P<major>\d+):(?P<minor>\d+) (?P<root>\S+) (?P<point>\S+) \S+(?: \S+)*? - "
    r"(?P<type>\S+) \S* (?P<options>\S+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One line of mountinfo, with its octal escapes undone."""

    device: tuple[int, int]  # major and minor
    root: str  # the folder of the file system that is mounted
    point: str
    type: str
    options: str  # of the superblock


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """A file system that holds shards: its type by name, and what that means for us."""

    type: str
    kind: Kind

    def __str__(self) -> str:
        return self.type or "unknown file system"


@dataclass(frozen=True, kw_only=True)
class Shards:
    """The files of one checkpoint: bytes in all, and each file system they are on."""

    total_bytes: int
    filesystems: tuple[FileSystem, ...]


def survey(paths: Iterable[str | os.PathLike[str]]) -> Shards:
    """Add up the shards and identify the file system of each distinct device they are on.

    Raises OSError when a shard can't be looked at.
    """
    total = 0
    first_on_device: dict[tuple[int, int], Path] = {}
    for path in paths:
        real = Path(path).resolve()
        total += real.stat().st_size
        first_on_device.setdefault(_devices(real), real)
    mounts = read_mounts()
    found = dict.fromkeys(identify(str(path), mounts) for path in first_on_device.values())
    return Shards(total_bytes=total, filesystems=tuple(found))


def identify(path: str, mounts: Sequence[Mount], magic: int | None = None) -> FileSystem:
    """Name the file system of `path`, which has no symbolic links.

    `magic` is for a file system that isn't there to be asked; by default statfs is.
    """
    magic = statfs_magic(path) if magic is None else magic
    mount = find_mount(path, mounts)
    mounted = mount.type if mount else ""
    if magic in _MAGICS:
        # The kernel's answer stands; mountinfo may be of a mount that another one hides.
        names = _MAGICS[magic]
        name = mounted if mounted in names else names[-1]
        return FileSystem(type=name, kind=_KINDS[name])
    if mount is not None and mounted == "overlay":
        return _identify_overlay(mount, mounts)
    if magic is None:
        return FileSystem(type=mounted, kind=_KINDS.get(mounted, Kind.UNKNOWN))
    # A magic that isn't ours contradicts a name that would be.
    return FileSystem(type="" if mounted in _KINDS else mounted, kind=Kind.UNKNOWN)


def _identify_overlay(mount: Mount, mounts: Sequence[Mount]) -> FileSystem:
    """An overlay is what its layers are, if they can be seen and are all of one kind."""
    layers = overlay_layers(mount.options)
    if not layers or not all(Path(layer).is_dir() for layer in layers):
        return FileSystem(type="overlay with hidden layers", kind=Kind.UNKNOWN)
    below = dict.fromkeys(identify(str(Path(layer).resolve()), mounts) for layer in layers)
    kinds = {filesystem.kind for filesystem in below}
    return FileSystem(
        type=f"overlay on {' and '.join(map(str, below))}",
        kind=kinds.pop() if len(kinds) == 1 else Kind.UNKNOWN,
    )


def overlay_layers(options: str) -> list[str]:
    r"""Return the lower and upper folders from an overlay's options, where `\:` is a colon."""
    layers: list[str] = []
    for option in re.split(r"(?<!\\),", options):
        key, _, value = option.partition("=")
        if key in ("lowerdir", "upperdir", "lowerdir+", "datadir+"):
            # A double colon sets data-only layers apart.
            parts = re.split(r"(?<!\\):+", value) if key == "lowerdir" else [value]
            layers += [re.sub(r"\\(.)", r"\1", part) for part in parts]
    return layers


def statfs_magic(path: str) -> int | None:
    """Return the f_type that statfs(2) gives for `path`, or None where it can't be asked."""
    libc = ctypes.CDLL(None, use_errno=True)
    # f_type is the first word of struct statfs on x86-64 and AArch64; 512 bytes hold all of it.
    buffer = (ctypes.c_long * 64)()
    if libc.statfs(os.fsencode(path), buffer) != 0:
        return None
    return int(buffer[0]) & 0xFFFFFFFF


def read_mounts(mountinfo: Path = MOUNTINFO) -> list[Mount]:
    """Return the mounts that this process sees; none where the kernel doesn't tell."""
    try:
        text = mountinfo.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return parse_mountinfo(text)


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse the lines of mountinfo, in their order; a line that isn't well formed is left out."""
    return [
        Mount(
            device=(int(match["major"]), int(match["minor"])),
            root=_unescape(match["root"]),
            point=_unescape(match["point"]),
            type=match["type"],
            options=_unescape(match["options"]),
        )
        for match in _MOUNTINFO_LINE.finditer(text)
    ]


def find_mount(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount that serves `path`: the longest mount point, the last of a stack.

    Mounts of the file's own device come first: a mount can be hidden by a later one above it.
    """
    above = [mount for mount in mounts if _is_below(path, mount.point)]
    try:
        devices = {(os.major(device), os.minor(device)) for device in _devices(Path(path))}
    except OSError:
        devices = set()
    own = [mount for mount in above if mount.device in devices]
    best: Mount | None = None
    for mount in own or above:  # btrfs gives its subvolumes devices that no mount has
        if best is None or len(mount.point) >= len(best.point):
            best = mount
    return best


def _devices(path: Path) -> tuple[int, int]:
    """Devices of the file and of its folder: an overlay's file may show the device of a layer."""
    return path.stat().st_dev, path.parent.stat().st_dev


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _unescape(field: str) -> str:
    r"""Undo the kernel's escapes: `\040` is a space, and so on for tab, newline, backslash, #."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
