# SPDX-License-Identifier: Apache-2.0
"""The shards of a checkpoint while it is loaded: open files, their tensors, and what is needed."""

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .behind import Behind
from .headers import Entry, read_header
from .holds import Hold

Skip = Callable[[str], bool]


class Shard:
    """An open file of a checkpoint; it is closed when nothing refers to this object any more.

    `wanted` are the tensors that this rank reads, in the order in which it does; `at` is where
    the first of them lies in the bytes of the whole load.
    """

    def __init__(
        self, *, path: str, fd: int, size: int, wanted: tuple[Entry, ...], at: int, behind: Behind
    ) -> None:
        self.path, self.fd, self.size = path, fd, size
        self.wanted, self.at, self.behind = wanted, at, behind
        self.end_at = at + sum(entry.end - entry.start for entry in wanted)
        weakref.finalize(self, os.close, fd).atexit = False


class Checkpoint:
    """The files of a load in its order. Opened as they are needed, by whichever thread comes first.

    A file that can't be opened, or that the library refuses, has no shard: the load itself then
    has the library tell the user, at the point where it always has.

    `skip` says which tensors this rank's iterator leaves out. `local` files can be locked
    themselves, `drop` gives pages back behind the load, `exact` reads nothing but what is asked
    for.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        skip: Skip = lambda name: False,
        local: bool = True,
        drop: bool = False,
        exact: bool = False,
    ) -> None:
        self.files = list(files)
        self.skip = skip
        self._local, self._drop, self._exact = local, drop, exact
        self._lock = threading.RLock()
        self._holds: dict[int, tuple[int, Hold]] = {}
        self._shards: dict[int, Shard | None] = {}
        self._ends: dict[int, int] = {-1: 0}
        self.dropped = 0

    def hold_all(self) -> None:
        """Say to the other processes of this machine that all files are needed."""
        with self._lock:
            for index in range(len(self.files)):
                self._hold(index)

    def shard(self, index: int) -> Shard | None:
        """Return a file's shard, or None if it has none. The files are to be asked for in order."""
        with self._lock:
            if index not in self._shards:
                shard = self._open(index)
                self._shards[index] = shard
                self._ends[index] = shard.end_at if shard else self._ends[index - 1]
            return self._shards[index]

    def end_of(self, index: int) -> int:
        """Where a file that has been asked for ends in the bytes of the load."""
        return self._ends[index]

    def has_company(self, index: int) -> bool:
        """Whether other processes of this machine need the file, too."""
        held = self._holds.get(index)
        return held is None or held[1].has_company()

    def done(self, index: int) -> None:
        """Need a file no more; tensors of it that are still held keep it open."""
        with self._lock:
            shard = self._shards.get(index)
            self._shards[index] = None
            if shard is not None:
                shard.behind.finish(shard.size)
                self.dropped += shard.behind.dropped
            held = self._holds.pop(index, None)
            if held is not None:
                held[1].close()
                os.close(held[0])

    def close(self) -> None:
        """Need nothing any more."""
        for index in list(self._holds):
            self.done(index)

    def _hold(self, index: int) -> tuple[int, Hold] | None:
        if index not in self._holds:
            try:
                fd = os.open(self.files[index], os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
            self._holds[index] = fd, Hold(fd, local=self._local)
        return self._holds[index]

    def _open(self, index: int) -> Shard | None:
        held = self._hold(index)
        if held is None:
            return None
        # The lock is that of the open file, which both descriptors share.
        fd = os.dup(held[0])
        try:
            if self._exact:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            header = read_header(fd)
        except Exception:
            os.close(fd)
            return None
        # Not the shard's own descriptor, which may be closed first where a whole load is garbage.
        behind = Behind(held[0], held[1], drop=self._drop)
        wanted = []
        behind.passed(0, header.data_start)
        for entry in header.entries:
            if self.skip(entry.name):
                behind.passed(entry.start, entry.end)
            else:
                wanted.append(entry)
        return Shard(
            path=self.files[index],
            fd=fd,
            size=header.size,
            wanted=tuple(wanted),
            at=self._ends[index - 1],
            behind=behind,
        )


def tensors_of_the_library(path: str, skip: Skip) -> Iterator[tuple[str, Any]]:
    """Yield a file's tensors as upstream does, with the library's own errors."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            if not skip(name):
                yield name, opened.get_tensor(name)


def tensor_of_the_library(path: str, name: str) -> Any:
    """Return one tensor as upstream does."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        return opened.get_tensor(name)
