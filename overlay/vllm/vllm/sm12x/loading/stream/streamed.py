# SPDX-License-Identifier: Apache-2.0
"""Stream a checkpoint: lazy tensors, read into a few slots as far as a rank takes them.

Reads pass the page cache by where the file system allows it. Where other processes of this machine
read the same shard, they go through it, so that what several ranks take is read once; whoever
needs a range last gives it back.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..files.checkpoint import Checkpoint, Shard, tensor_of_the_library, tensors_of_the_library
from ..files.headers import Entry
from .foresight import Foresight
from .lazy import lazy
from .pieces import View
from .reader import Reader, ShardReader
from .slots import Slots

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Bytes of all slots together and of one, and threads that read."""

    slots: int
    slot: int = 2 << 20
    threads: int = 4


class FileOrigin:
    """A tensor's bytes in a shard, read by the load's reader."""

    def __init__(
        self, reader: Reader, shard: ShardReader, entry: Entry, foresight: Foresight
    ) -> None:
        self.start = entry.start
        self._reader, self._shard, self._entry = reader, shard, entry
        self._foresight = foresight

    def copy(self, view: View, dtype: Any, target: Any) -> None:
        if 0 in view.shape:
            return
        ahead = self._foresight.claim(self._shard, self._entry, view)
        if ahead is not None:
            self._reader.finish(ahead, dtype, target)
        else:
            self._reader.copy(self._shard, view, dtype, target)


class Stream:
    """One load's reader, and what it has seen."""

    def __init__(self, checkpoint: Checkpoint, sizes: Sizes) -> None:
        self._checkpoint = checkpoint
        self.slots = Slots(count=max(2, sizes.slots // sizes.slot), size=sizes.slot)
        self.reader = Reader(self.slots, threads=sizes.threads)
        self.foresight = Foresight(self.reader, spare=self.slots.count // 2)
        self._started = time.perf_counter()
        self._opened: ShardReader | None = None
        self._read = 0
        self._ways: set[str] = set()

    def tensors(self, index: int, shard: Shard) -> Iterator[tuple[str, Any]]:
        """Yield the tensors of a shard that this rank's load goes through, without their bytes."""
        # Past the page cache unless others of this machine read the shard, too.
        opened = ShardReader(shard, direct=not self._checkpoint.has_company(index))
        self._opened = opened
        self._ways.add("past the page cache" if opened.is_direct else "through the page cache")
        self.foresight.begin(opened)
        for position, entry in enumerate(shard.wanted):
            self.foresight.look(position)
            yield entry.name, self._tensor(opened, entry)
            self.foresight.passed(entry)
            shard.behind.passed(entry.start, entry.end)
            shard.behind.settle()
        self._end_shard()

    def _tensor(self, opened: ShardReader, entry: Entry) -> Any:
        if entry.dtype is None or entry.start % entry.dtype.itemsize:
            return tensor_of_the_library(opened.shard.path, entry.name)
        return lazy(
            FileOrigin(self.reader, opened, entry, self.foresight), entry.shape, entry.dtype
        )

    def _end_shard(self) -> None:
        if self._opened is not None:
            self._read += self._opened.bytes_read
            self._opened = None

    def close(self) -> None:
        """End all reading. Logs what has been done."""
        self.foresight.close()
        self.reader.close()
        self._end_shard()
        seconds = time.perf_counter() - self._started
        logger.info(
            "Streamed %.2f GiB in %.1f s (%.2f GB/s), %s, through %d MiB of %s memory.",
            self._read / 2**30,
            seconds,
            self._read / 1e9 / max(seconds, 1e-9),
            " and ".join(sorted(self._ways)) or "nothing was read",
            self.slots.size * self.slots.count >> 20,
            "page-locked" if self.was_pinned else "plain",
        )

    @property
    def was_pinned(self) -> bool:
        return self.slots.pinned


def streamed_tensors(
    checkpoint: Checkpoint, sizes: Sizes, progress: Iterable[str]
) -> Iterator[tuple[str, Any]]:
    """Yield all tensors of a checkpoint as the library would, but lazy ones.

    `progress` gives the checkpoint's files again, and shows how far the load is. Tensors that are
    kept stay good after the end: they are then read through the page cache.
    """
    stream = Stream(checkpoint, sizes)
    try:
        for index, path in enumerate(progress):
            shard = checkpoint.shard(index)
            if shard is None:
                yield from tensors_of_the_library(path, checkpoint.skip)
                continue
            yield from stream.tensors(index, shard)
            del shard
            checkpoint.done(index)
    finally:
        stream.close()
        checkpoint.close()
