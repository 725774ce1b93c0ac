# SPDX-License-Identifier: Apache-2.0
"""Where the benchmark's checkpoint lies: a folder, or a loop device with its own read-ahead."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def looped(folder: Path, gib: float, read_ahead_kib: int) -> Iterator[Path]:
    """Mount a new ext4 of `gib` below `folder`, with no second page cache under it.

    Needs root, losetup, mkfs.ext4 and mount. Raises CalledProcessError with what one of them says.
    """
    image, point = folder / "image", folder / "mounted"
    point.mkdir()
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(gib * 2**30))
    _call("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
    device = _call("losetup", "--find", "--show", "--direct-io=on", str(image))
    try:
        queue = Path("/sys/block") / Path(device).name / "queue" / "read_ahead_kb"
        queue.write_text(str(read_ahead_kib), encoding="ascii")
        _call("mount", device, str(point))
        try:
            yield point
        finally:
            _call("umount", str(point))
    finally:
        _call("losetup", "--detach", device)


def device_of(folder: Path) -> dict[str, str]:
    """Return the file system and the read-ahead of a folder, for the record."""
    from vllm.sm12x.loading.facts import filesystem
    from vllm.sm12x.loading.files import pages

    (found,) = filesystem.survey([folder]).filesystems
    kib = pages.read_ahead_kib(str(folder))
    return {"filesystem": str(found), "read_ahead_kib": str(kib), "cpus": str(os.cpu_count())}


def _call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
