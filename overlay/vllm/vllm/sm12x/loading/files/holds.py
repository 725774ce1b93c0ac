# SPDX-License-Identifier: Apache-2.0
"""Who still reads which part of a shard, among all processes of this machine.

Each load holds a shared lock on what it has yet to read of each shard, and lets go of it piece by
piece. Whoever lets go last gives the pages back: ranks of one group and engines that know nothing
of each other (dense data parallelism) alike. The locks are those of open file descriptions, see
F_OFD_SETLK in fcntl(2): they end with the process, and a file that may only be read can have them.
On a network's file system they would go to the server, so a file beside it stands in there.
"""

import contextlib
import fcntl
import os
import struct
import tempfile
from pathlib import Path

# struct flock of x86-64 and AArch64: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


class Hold:
    """A shared lock over one shard, which shrinks. `shared` says whether the file can be locked."""

    def __init__(self, fd: int, *, local: bool) -> None:
        """`fd` stays the caller's; without `local` a file in the temporary folder is locked."""
        self._own: int | None = None
        self._fd = fd
        self.works = True
        try:
            if not local:
                self._own = self._fd = _stand_in(fd)
            self._set(fcntl.F_RDLCK, 0, 0)
        except OSError:
            self.works = False

    def let_go(self, start: int, end: int) -> None:
        """Need [start, end) no more; `end` 0 is the end of the file."""
        if self.works:
            self._set(fcntl.F_UNLCK, start, end)

    def has_company(self, start: int = 0, end: int = 0) -> bool:
        """Whether somebody else needs a part of [start, end), or that can't be told."""
        if not self.works:
            return True
        # Nothing is locked by asking, so the file needn't be open for writing.
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, max(0, end - start), 0)
        try:
            answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
        except OSError:
            return True
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Need nothing any more."""
        with contextlib.suppress(OSError):
            self.let_go(0, 0)
        if self._own is not None:
            os.close(self._own)
            self._own = None
        self.works = False

    def _set(self, kind: int, start: int, end: int) -> None:
        lock = struct.pack(_FLOCK, kind, os.SEEK_SET, start, max(0, end - start), 0)
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, lock)


def _stand_in(fd: int) -> int:
    """Open a file that stands for this one on this machine, readable by everybody."""
    status = os.fstat(fd)
    folder = Path(tempfile.gettempdir()) / f"vllm-sm12x-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{status.st_dev}-{status.st_ino}.lock"
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
