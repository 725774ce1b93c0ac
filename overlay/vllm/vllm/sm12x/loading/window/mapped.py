# SPDX-License-Identifier: Apache-2.0
"""Tensors that are mapped one by one, so that the pages behind a load can be given back.

The library maps a whole file, and a page that is mapped stays in the page cache whatever is
advised. Here each tensor is a private mapping of its own, which ends with the last view of it.
"""

import ctypes
import os
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from ..files import pages
from ..files.checkpoint import Checkpoint, Shard, tensor_of_the_library, tensors_of_the_library
from ..files.headers import Entry
from .fill import Window


def map_tensor(shard: Shard, entry: Entry) -> Any:
    """Return a CPU tensor on the file's pages; a write to it stays in this process.

    Raises OSError when the file can't be mapped.
    """
    import torch

    first = entry.start - entry.start % pages.PAGE
    length = entry.end - first
    dtype = entry.dtype
    if dtype is None or entry.start == entry.end or entry.start % dtype.itemsize:
        shard.behind.passed(entry.start, entry.end)
        return tensor_of_the_library(shard.path, entry.name)
    if entry.end > os.fstat(shard.fd).st_size:
        raise OSError(f"{shard.path} has become shorter while it is loaded; load it again")
    address = pages.map_private(shard.fd, first, length)
    memory = (ctypes.c_ubyte * length).from_address(address)
    # Not at the interpreter's end: something may still look at the tensor then.
    weakref.finalize(memory, _unmap, address, length, shard, entry).atexit = False
    count = (entry.end - entry.start) // dtype.itemsize
    flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=entry.start - first)
    return flat.view(entry.shape)


def _unmap(address: int, length: int, shard: Shard, entry: Entry) -> None:
    pages.unmap(address, length)
    shard.behind.passed(entry.start, entry.end)


def mapped_tensors(
    checkpoint: Checkpoint, window: Window, progress: Iterable[str]
) -> Iterator[tuple[str, Any]]:
    """Yield all tensors of a checkpoint as the library would, and have the window keep ahead.

    `progress` gives the checkpoint's files again, and shows how far the load is.
    """
    try:
        for index, path in enumerate(progress):
            shard = checkpoint.shard(index)
            if shard is None:
                yield from tensors_of_the_library(path, checkpoint.skip)
                continue
            at = shard.at
            for entry in shard.wanted:
                window.advance(at)
                yield entry.name, map_tensor(shard, entry)
                at += entry.end - entry.start
                shard.behind.settle()
            # Its last tensor is held until the next one is asked for; what is mapped then stays
            # for the next settling.
            if index:
                checkpoint.done(index - 1)
            del shard
    finally:
        window.advance(1 << 62)
        checkpoint.close()
        window.close()
