# SPDX-License-Identifier: Apache-2.0
"""What lies behind a load: ranges of a shard that nobody needs any more, given back in steps."""

from collections import deque

from . import pages
from .holds import Hold

# Pages are given back in pieces of this size: the kernel keeps part of a folio otherwise.
STEP = 16 << 20


class Behind:
    """Collects the ranges of one shard that have been read, and drops their pages.

    `passed` may be called by any thread, and by a finalizer in the middle of anything: it only
    notes. `settle` does the work. Pages go when no process of this machine holds them any more.
    """

    def __init__(self, fd: int, hold: Hold, *, drop: bool) -> None:
        self._fd, self._hold = fd, hold
        self._drop = drop and pages.is_ours(fd)
        self._noted: deque[tuple[int, int]] = deque()
        self._ranges: list[tuple[int, int]] = []
        self.dropped = 0

    def passed(self, start: int, end: int) -> None:
        """Note that [start, end) isn't needed any more."""
        if start < end:
            self._noted.append((start, end))

    def settle(self, step: int = STEP) -> None:
        """Give back what has been noted and is at least `step` bytes long with what adjoins it."""
        while self._noted:
            self._ranges = insert(self._ranges, self._noted.popleft())
        kept = []
        for start, end in self._ranges:
            if end - start < step:
                kept.append((start, end))
                continue
            self._give_back(start, end)
            # The last page may reach into what is still needed: it goes with the range after it.
            if end % pages.PAGE:
                kept.append((end - end % pages.PAGE, end))
        self._ranges = kept

    def finish(self, size: int) -> None:
        """Give back the whole file of `size` bytes, but for pages that somebody holds or maps."""
        self._noted.clear()
        self._ranges = []
        if self._give_back(0, size):
            self.dropped = size

    def _give_back(self, start: int, end: int) -> bool:
        self._hold.let_go(start, end)
        if not self._drop or self._hold.has_company(start, end):
            return False
        pages.give_back(self._fd, start, end)
        return True


def insert(ranges: list[tuple[int, int]], new: tuple[int, int]) -> list[tuple[int, int]]:
    """Return sorted, disjoint ranges with one more, joined with those that it touches."""
    start, end = new
    before = [r for r in ranges if r[1] < start]
    after = [r for r in ranges if r[0] > end]
    for low, high in ranges[len(before) : len(ranges) - len(after)]:
        start, end = min(start, low), max(end, high)
    return [*before, (start, end), *after]
