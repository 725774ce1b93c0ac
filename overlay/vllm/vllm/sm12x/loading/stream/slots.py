# SPDX-License-Identifier: Apache-2.0
"""A few buffers that a load reads into again and again: page-locked where CUDA is up."""

import logging
import mmap
import threading
from typing import Any

logger = logging.getLogger(__name__)


class Slots:
    """`count` buffers of `size` bytes, each used by one holder at a time.

    They begin at a page, as reads that pass the page cache by need it.
    """

    def __init__(self, *, count: int, size: int) -> None:
        """Raises ValueError unless `size` is a whole number of pages and there are two slots."""
        if size % mmap.PAGESIZE or count < 2:
            raise ValueError(f"{count} slots of {size} bytes: at least 2, of whole pages")
        import torch

        self.size, self.count = size, count
        self._memory = mmap.mmap(-1, count * size)
        whole = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._tensors = [whole[n * size : (n + 1) * size] for n in range(count)]
        self._address = whole.data_ptr()
        self._free = list(range(count))
        self._wake = threading.Condition()
        self._closed = False
        self.pinned = _pin(self._address, count * size)

    def take(self, *, spare: int = 0, wait: bool = True) -> int | None:
        """Return a free slot's number, or None: if more than `spare` would have to be free.

        With `wait` it comes when one is given back. Raises RuntimeError once they are closed.
        """
        with self._wake:
            while len(self._free) <= spare and wait and not self._closed:
                self._wake.wait()
            if self._closed:
                raise RuntimeError("the load has been closed")
            return self._free.pop() if len(self._free) > spare else None

    def give(self, number: int) -> None:
        """Give a slot back: nobody looks at it any more."""
        with self._wake:
            self._free.append(number)
            self._wake.notify()

    def tensor(self, number: int) -> Any:
        """Return a slot as bytes of torch's."""
        return self._tensors[number]

    def memory(self, number: int) -> memoryview:
        """Return a slot as bytes to read into."""
        return memoryview(self._memory)[number * self.size : (number + 1) * self.size]

    def close(self) -> None:
        """Unlock and forget the memory; it goes when the last look at it does."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
            self._wake.notify_all()
        if self.pinned:
            _unpin(self._address)
            self.pinned = False
        self._tensors = []


def _cudart() -> Any:
    """CUDA's runtime if this process has initialised it; asking must not be what does."""
    from torch import cuda

    gpu: Any = cuda  # partly untyped
    return gpu.cudart() if gpu.is_available() and gpu.is_initialized() else None


def _pin(address: int, size: int) -> bool:
    """Lock pages for the GPU. torch's own allocator would keep them for ever."""
    runtime = _cudart()
    if runtime is None:
        return False
    failed = int(runtime.cudaHostRegister(address, size, 0))
    if failed:
        logger.warning(
            "CUDA can't lock %d MiB of memory for loading (error %d), so copies are slower. A "
            "limit on locked memory (ulimit -l) is the usual cause.",
            size >> 20,
            failed,
        )
    return not failed


def _unpin(address: int) -> None:
    runtime = _cudart()
    if runtime is not None:
        runtime.cudaHostUnregister(address)
