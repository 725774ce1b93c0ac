# SPDX-License-Identifier: Apache-2.0
"""A real disk that can't read the end of what it holds.

A loop device whose image has been cut off after it was mounted answers reads beyond the cut with an
I/O error, as a disk does whose sectors have gone. Needs root, ext4 and the tools of both.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TOOLS = ("losetup", "mkfs.ext4", "filefrag", "mount", "umount")
BLOCK = 4096


def call(*command: str | Path) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{command[0]} isn't possible here: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def mounted(folder: Path, mib: int = 200) -> Iterator[tuple[Path, Path]]:
    """A new ext4 below `folder`: its mount point and its image."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid():
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}")
    image, point = folder / "image", folder / "mounted"
    point.mkdir()
    image.touch()
    os.truncate(image, mib << 20)
    call("mkfs.ext4", "-q", "-b", str(BLOCK), "-E", "lazy_itable_init=0", image)
    device = call("losetup", "--find", "--show", "--direct-io=on", image)
    try:
        call("mount", device, point)
        try:
            yield point, image
        finally:
            subprocess.run(["umount", point], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def last_blocks(path: str) -> tuple[int, int]:
    """Where a file's last extent lies on its device, in bytes."""
    lines = call("filefrag", "-v", f"-b{BLOCK}", path)
    extents = re.findall(r"^ *\d+: *\d+\.\. *\d+: *(\d+)\.\. *(\d+):", lines, re.MULTILINE)
    start, end = max((int(one), int(other)) for one, other in extents)
    return start * BLOCK, (end + 1) * BLOCK


def lose(point: Path, image: Path, files: list[str]) -> int:
    """Make the second half of one of the files unreadable; return which.

    Nothing can be written after this.
    """
    call("mount", "-o", "remount,ro", point)
    where = [last_blocks(file) for file in files]
    lost = where.index(max(where))
    start, end = where[lost]
    os.truncate(image, (start + end) // 2 // BLOCK * BLOCK)
    return lost
