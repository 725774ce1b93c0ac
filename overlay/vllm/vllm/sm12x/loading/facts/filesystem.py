# SPDX-License-Identifier: Apache-2.0
"""Where the shards of a checkpoint really are: their sizes and the file systems that hold them.

The kernel is asked with statfs(2), once per device, behind every symbolic link. What statfs can't
tell apart (ext2/3/4, the many file systems behind FUSE, the layers of an overlay) is looked up in
/proc/self/mountinfo, see proc_pid_mountinfo(5). Linux only. A file system in user space (FUSE)
counts as a network's: each read is a message to a program, and most of these programs fetch.
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
    NETWORK = "network"  # files are fetched from elsewhere, or through a program
    MEMORY = "memory"  # the files are in memory already
    UNKNOWN = "unknown"  # can't be told, or nobody has tried


_KINDS = {
    **dict.fromkeys(("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs"), Kind.LOCAL),
    **dict.fromkeys(("nfs", "nfs4", "lustre", "ceph", "gpfs", "beegfs", "wekafs"), Kind.NETWORK),
    **dict.fromkeys(("cifs", "smb3", "9p", "virtiofs", "fuse"), Kind.NETWORK),
    **dict.fromkeys(("tmpfs", "ramfs", "hugetlbfs"), Kind.MEMORY),
}

# f_type of statfs(2), from linux/magic.h, OpenZFS, Lustre, GPFS and BeeGFS; names share a magic.
_FUSE = 0x65735546
_MAGICS: dict[int, tuple[str, ...]] = {
    0xEF53: ("ext2", "ext3", "ext4"),
    0x58465342: ("xfs",),
    0x9123683E: ("btrfs",),
    0x2FC12FC1: ("zfs",),
    0xF2F52010: ("f2fs",),
    0x6969: ("nfs", "nfs4"),
    0x0BD00BD0: ("lustre",),
    0x00C36400: ("ceph",),
    0x47504653: ("gpfs",),
    0x19830326: ("beegfs",),
    0xFF534D42: ("cifs",),
    0xFE534D42: ("smb3", "cifs"),
    0x01021997: ("9p",),
    _FUSE: ("virtiofs", "fuse"),
    0x01021994: ("tmpfs",),
    0x858458F6: ("ramfs",),
    0x958458F6: ("hugetlbfs",),
}
# Their magics aren't published: the name in mountinfo is all there is.
_WITHOUT_MAGIC = ("wekafs",)

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
    """The files of one checkpoint: bytes in all, and on each file system that holds some."""

    total_bytes: int
    bytes_on: tuple[tuple[FileSystem, int], ...]

    @property
    def filesystems(self) -> tuple[FileSystem, ...]:
        return tuple(filesystem for filesystem, _ in self.bytes_on)


def survey(paths: Iterable[str | os.PathLike[str]]) -> Shards:
    """Add up the shards and identify the file system that each is on.

    statfs is asked once per device, but for overlays: their files can come from different layers.
    Raises OSError when a shard can't be looked at.
    """
    bytes_on: dict[FileSystem, int] = {}
    known: dict[tuple[int, int], FileSystem] = {}
    mounts = read_mounts()
    for path in paths:
        real = Path(path).resolve()
        devices = _devices(real)
        found = known.get(devices) or identify(str(real), mounts)
        if not found.type.startswith("overlay"):
            known[devices] = found
        bytes_on[found] = bytes_on.get(found, 0) + real.stat().st_size
    return Shards(total_bytes=sum(bytes_on.values()), bytes_on=tuple(bytes_on.items()))


def identify(path: str, mounts: Sequence[Mount], magic: int | None = None) -> FileSystem:
    """Name the file system of `path`, which has no symbolic links.

    `magic` is for a file system that isn't there to be asked; by default statfs is.
    """
    magic = statfs_magic(path) if magic is None else magic
    mount = find_mount(path, mounts)
    mounted = mount.type if mount else ""
    if magic == _FUSE and mounted.startswith("fuse"):
        return FileSystem(type=mounted, kind=_KINDS["fuse"])  # fuse.sshfs, fuseblk, ...
    if magic in _MAGICS:
        # The kernel's answer stands; mountinfo may be of a mount that another one hides.
        names = _MAGICS[magic]
        name = mounted if mounted in names else names[-1]
        return FileSystem(type=name, kind=_KINDS[name])
    if mount is not None and mounted == "overlay":
        return _identify_overlay(path, mount, mounts)
    if mounted in _WITHOUT_MAGIC:
        return FileSystem(type=mounted, kind=_KINDS[mounted])
    if magic is None:
        kind = _KINDS["fuse"] if mounted.startswith("fuse") else _KINDS.get(mounted, Kind.UNKNOWN)
        return FileSystem(type=mounted, kind=kind)
    # A magic that isn't ours contradicts a name that would be.
    return FileSystem(type="" if mounted in _KINDS else mounted, kind=Kind.UNKNOWN)


def _identify_overlay(path: str, mount: Mount, mounts: Sequence[Mount]) -> FileSystem:
    """A file of an overlay is on the uppermost layer that has it, if the layers can be seen."""
    layers = [Path(layer) for layer in overlay_layers(mount.options)]
    if not layers or not all(layer.is_dir() for layer in layers):
        return FileSystem(type="overlay with hidden layers", kind=Kind.UNKNOWN)
    inside = Path(mount.root.lstrip("/")) / Path(path).relative_to(mount.point)
    holding = [layer for layer in layers if (layer / inside).exists()][:1]
    below = dict.fromkeys(
        identify(str((layer / inside if holding else layer).resolve()), mounts)
        for layer in holding or layers
    )
    kinds = {filesystem.kind for filesystem in below}
    return FileSystem(
        type=f"overlay on {' and '.join(map(str, below))}",
        kind=kinds.pop() if len(kinds) == 1 else Kind.UNKNOWN,
    )


def overlay_layers(options: str) -> list[str]:
    r"""Return an overlay's folders from its options, the upper one first; `\:` is a colon."""
    layers: list[str] = []
    for option in re.split(r"(?<!\\),", options):
        key, _, value = option.partition("=")
        if key in ("lowerdir", "upperdir", "lowerdir+", "datadir+"):
            # A double colon sets data-only layers apart.
            parts = re.split(r"(?<!\\):+", value) if key == "lowerdir" else [value]
            found = [re.sub(r"\\(.)", r"\1", part) for part in parts]
            layers = found + layers if key == "upperdir" else layers + found
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
