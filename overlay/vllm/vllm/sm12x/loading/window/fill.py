# SPDX-License-Identifier: Apache-2.0
"""Fill the page cache a bounded piece ahead of a load, beside it.

A few threads bring in the blocks that this rank reads for its machine, in the order of the load and
never more than the window ahead of the consumer. A block that is there already is skipped. Nothing
that goes wrong here breaks the load: it then reads for itself, as it would without a window.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..facts.node import ALONE, Neighbours
from ..files import pages
from ..files.checkpoint import Checkpoint, Shard
from .spans import Span, cut, share_out

logger = logging.getLogger(__name__)

# A thread that reads from a server which doesn't answer isn't waited for longer than this.
_JOIN_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a window in bytes, and its threads. `by_advice`: the kernel reads as advised."""

    ahead: int
    block: int
    threads: int
    by_advice: bool


class Window:
    """Reads ahead of the load until it is closed. `own` says which tensors only this rank reads."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        shape: Shape,
        *,
        neighbours: Neighbours = ALONE,
        own: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self._checkpoint, self._shape = checkpoint, shape
        self._neighbours, self._own = neighbours, own
        self._wake = threading.Condition()
        self._spans = self._plan()
        self._consumed = 0
        self._stopped = False
        self._planned = 0
        self.read = self.skipped = 0
        self._started = time.perf_counter()
        self._busy_until = self._started
        self._threads = [
            threading.Thread(target=self._work, name=f"sm12x-window-{number}", daemon=True)
            for number in range(shape.threads)
        ]
        for thread in self._threads:
            thread.start()

    def advance(self, at: int) -> None:
        """Say that the load has come to byte `at` of all that it reads."""
        with self._wake:
            self._consumed = at
            self._wake.notify_all()

    def close(self) -> None:
        """Stop reading: each thread ends within its block. Logs what has been done."""
        with self._wake:
            if self._stopped:
                return
            self._stopped = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        seconds = self._busy_until - self._started
        logger.info(
            "Read %.2f GiB ahead into the page cache in %.1f s (%.2f GB/s), %.2f GiB were there "
            "already; gave %.2f GiB back.",
            self.read / 2**30,
            seconds,
            self.read / 1e9 / max(seconds, 1e-9),
            self.skipped / 2**30,
            self._checkpoint.dropped / 2**30,
        )

    def _plan(self) -> Iterator[tuple[Shard, Span]]:
        for index in range(len(self._checkpoint.files)):
            shard = self._checkpoint.shard(index)
            if shard is None:
                continue
            spans = cut(shard.wanted, shard.at, block=self._shape.block, own=self._own)
            shared = share_out(spans, index=self._neighbours.index, count=self._neighbours.count)
            for span in shared:
                yield shard, span

    def _is_stopped(self) -> bool:
        return self._stopped

    def _next(self) -> tuple[Shard, Span] | None:
        """Take the next span once the window reaches it; None when there is none, or at the end."""
        with self._wake:
            if self._stopped:
                return None
            taken = next(self._spans, None)
            while taken is not None and not self._stopped:
                if taken[1].at < self._consumed + self._shape.ahead:
                    return taken
                self._wake.wait()
        return None

    def _work(self) -> None:
        try:
            while (taken := self._next()) is not None:
                self._bring_in(*taken)
        except Exception:
            logger.warning(
                "Reading ahead has ended early; the load goes on by itself.", exc_info=True
            )

    def _bring_in(self, shard: Shard, span: Span) -> None:
        size = span.end - span.start
        passed = span.at + size <= self._consumed
        if passed or pages.is_resident(shard.fd, span.start, span.end):
            with self._wake:
                self.skipped += size
            return
        # What follows a span of this rank's own may be what nobody here needs.
        exact = span.own and self._shape.by_advice
        bring_in = pages.warm_by_advice if exact else pages.warm_by_pipe
        bring_in(shard.fd, span.start, span.end, self._is_stopped)
        with self._wake:
            self.read += size
            self._busy_until = time.perf_counter()
