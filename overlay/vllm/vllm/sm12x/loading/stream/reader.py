# SPDX-License-Identifier: Apache-2.0
"""Read parts of shards into slots, with a few threads, and copy them to where they belong."""

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..files import pages
from ..files.checkpoint import Shard
from .direct import open_direct
from .pieces import HOLE, SHARED_HOLE, Piece, Read, View, cut, merge_small
from .slots import Slots

# A piece is no smaller than this unless its tensor is: each costs about 0.1 ms of Python.
_LEAST_PIECE = 1 << 20
# Tensors up to this size that follow each other in a file are read together, up to the limit.
_SMALL, _TOGETHER = 16 << 10, 256 << 10
_TOGETHERS = 4
# Through the page cache reads may begin anywhere, but then a dtype's elements must lie well.
_LEAST_ALIGNMENT = 64


class ShardReader:
    """How one shard is read: past the page cache where that is possible and nobody shares it."""

    def __init__(self, shard: Shard, *, direct: bool) -> None:
        self.shard = shard
        self._direct = open_direct(shard.fd) if direct else None
        self._shared = not direct
        self.hole = HOLE if direct else SHARED_HOLE
        self.align = self._direct.alignment.offset if self._direct else _LEAST_ALIGNMENT
        extents = [(entry.start, entry.end) for entry in shard.wanted]
        self.together = merge_small(extents, _SMALL, _TOGETHER)
        self.bytes_read = 0
        self._lock = threading.Lock()

    @property
    def is_direct(self) -> bool:
        return self._direct is not None

    def read(self, read: Read, into: memoryview, *, exact: bool = False) -> None:
        """Fill `into[read.to:]`. Raises OSError, also where the file ends too early."""
        part = into[read.to : read.to + read.size]
        end = min(read.at + read.size, self.shard.size)
        direct = self._direct
        if direct is not None and not exact:
            try:
                self._fill(direct.fd, part, read.at, end)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                # What the file system doesn't take after all goes through the page cache.
                self._direct = direct = None
        if direct is None or exact:
            self._fill(self.shard.fd, part, read.at, end)
            if not self._shared:
                pages.give_back(self.shard.fd, read.at, end)
        with self._lock:
            self.bytes_read += end - read.at

    def _fill(self, fd: int, part: memoryview, start: int, end: int) -> None:
        at = start
        while at < end:
            got = os.preadv(fd, [part[at - start :]], at)
            if not got:
                raise OSError(
                    f"{self.shard.path} ends at byte {at}, {end - at} too early: it has become "
                    "shorter while it is loaded. Let nothing write to it, and load again."
                )
            at += got
            if at < end:
                at -= at % self.align  # a direct read that was cut short goes on where it may


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """Pieces of a view that are read, or being read, into slots of their own."""

    pieces: tuple[Piece, ...]
    slots: tuple[int, ...]
    reads: tuple["Future[None]", ...]


class Reader:
    """Copies views of shards into tensors. One load has one; it may be used after its close.

    `slots` are shared by all that is read; `threads` read at the same time.
    """

    def __init__(self, slots: Slots, *, threads: int) -> None:
        self._slots = slots
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = ThreadPoolExecutor(
            threads, thread_name_prefix="sm12x-stream"
        )
        self._togethers: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def copy(self, reader: ShardReader, view: View, dtype: Any, target: Any) -> None:
        """Copy a view into `target`, a tensor of its shape. Raises OSError when reading fails."""
        together = reader.together.get(view.start)
        if together is not None:
            self._copy_small(reader, view, dtype, target, together)
            return
        pieces = self.pieces(reader, view)
        if self._pool is None:
            self._copy_late(reader, pieces, dtype, target)
        elif len(pieces) == 1:
            self._copy_piece(reader, pieces[0], dtype, target)
        else:
            self._wait([
                self._pool.submit(self._copy_piece, reader, piece, dtype, target)
                for piece in pieces
            ])  # fmt: skip

    def pieces(self, reader: ShardReader, view: View) -> list[Piece]:
        """Cut a view so that all threads have something to do."""
        size = self._slots.size
        edges = 2 * reader.align
        limit = min(size, max(_LEAST_PIECE, view.extent // self._threads) + edges)
        return list(cut(view, max(limit, 3 * edges), reader.align, reader.hole))

    def start(self, reader: ShardReader, view: View, spare: int) -> Ahead | None:
        """Begin to read a view; None if that left fewer than `spare` slots free."""
        if self._pool is None:
            return None
        pieces = self.pieces(reader, view)
        taken: list[int] = []
        for _ in pieces:
            slot = self._slots.take(spare=spare, wait=False)
            if slot is None:
                for number in taken:
                    self._slots.give(number)
                return None
            taken.append(slot)
        reads = tuple(
            self._pool.submit(self._read_piece, reader, piece, slot)
            for piece, slot in zip(pieces, taken, strict=True)
        )
        return Ahead(pieces=tuple(pieces), slots=tuple(taken), reads=reads)

    def finish(self, ahead: Ahead, dtype: Any, target: Any) -> None:
        """Copy what has been read ahead into `target`, and give its slots back."""
        try:
            for piece, slot, read in zip(ahead.pieces, ahead.slots, ahead.reads, strict=True):
                read.result()
                _part(target, piece).copy_(_source(self._slots.tensor(slot), piece, dtype))
        finally:
            self.forget(ahead)

    def forget(self, ahead: Ahead) -> None:
        """Give the slots of what has been read ahead back, now or when its reads are done."""
        for slot, read in zip(ahead.slots, ahead.reads, strict=True):
            read.cancel()
            read.add_done_callback(partial(self._give, slot))

    def _give(self, slot: int, _: "Future[None]") -> None:
        self._slots.give(slot)

    def close(self) -> None:
        """End all threads, each after the read that it is at, and let go of the slots."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        self._togethers.clear()
        self._slots.close()

    def _wait(self, futures: Sequence["Future[None]"]) -> None:
        """Wait for all, so that nobody writes to the target any more, and raise the first error."""
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                if not future.cancel() and not future.done():
                    future.exception()

    def _read_piece(self, reader: ShardReader, piece: Piece, slot: int) -> None:
        memory = self._slots.memory(slot)
        for read in piece.reads:
            reader.read(read, memory, exact=piece.exact)

    def _copy_piece(self, reader: ShardReader, piece: Piece, dtype: Any, target: Any) -> None:
        slot = self._slots.take()
        assert slot is not None
        try:
            self._read_piece(reader, piece, slot)
            _copy(self._slots.tensor(slot), piece, dtype, target)
        finally:
            self._slots.give(slot)

    def _copy_late(
        self, reader: ShardReader, pieces: Sequence[Piece], dtype: Any, target: Any
    ) -> None:
        """After the close: a tensor that was kept is read into a buffer of the moment."""
        for piece in pieces:
            size = max(read.to + read.size for read in piece.reads)
            buffer, memory = _buffer(size)
            for read in piece.reads:
                reader.read(read, memory, exact=piece.exact)
            _copy(buffer, piece, dtype, target)

    def _copy_small(
        self,
        reader: ShardReader,
        view: View,
        dtype: Any,
        target: Any,
        together: tuple[int, int],
    ) -> None:
        """Copy from a range that has been read for several small tensors, or read it."""
        start, end = together
        begin = start - start % reader.align
        key = (id(reader), start)
        with self._lock:
            buffer = self._togethers.get(key)
        if buffer is None:
            size = -(-(end - begin) // reader.align) * reader.align
            buffer, memory = _buffer(size)
            reader.read(Read(at=begin, size=size, to=0), memory)
            with self._lock:
                if self._pool is not None:
                    self._togethers[key] = buffer
                while len(self._togethers) > _TOGETHERS:
                    self._togethers.popitem(last=False)
        offset = (view.first - begin) // view.itemsize
        piece = Piece(narrows=(), reads=(), shape=view.shape, strides=view.strides, offset=offset)
        _copy(buffer, piece, dtype, target)


def _buffer(size: int) -> tuple[Any, memoryview]:
    """Memory that begins at a page, as torch's bytes and to read into."""
    import mmap

    import torch

    memory = mmap.mmap(-1, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
    return torch.frombuffer(memory, dtype=torch.uint8), memoryview(memory)


def _copy(buffer: Any, piece: Piece, dtype: Any, target: Any) -> None:
    import torch

    # Parameters may want gradients, or be inference tensors: this thread doesn't know the mode.
    with torch.inference_mode():
        _part(target, piece).copy_(_source(buffer, piece, dtype))


def _source(buffer: Any, piece: Piece, dtype: Any) -> Any:
    whole = buffer[: buffer.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
    # A slot is part of a larger storage, and as_strided counts from the storage's start.
    offset = whole.storage_offset() + piece.offset
    return whole.as_strided(piece.shape, piece.strides, offset)


def _part(target: Any, piece: Piece) -> Any:
    for dim, start, length in piece.narrows:
        target = target.narrow(dim, start, length)
    return target
