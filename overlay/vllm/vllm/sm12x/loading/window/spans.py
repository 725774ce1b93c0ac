# SPDX-License-Identifier: Apache-2.0
"""In which pieces a window reads a shard: blocks in the order of the load, shared out to ranks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..files.headers import Entry


@dataclass(frozen=True, kw_only=True)
class Span:
    """Bytes [start, end) of a file, needed from `at` on in the bytes of the load.

    `own`: no other rank reads them, so that they aren't shared out.
    """

    start: int
    end: int
    at: int
    own: bool = False


def cut(
    entries: Iterable[Entry], at: int, *, block: int, own: Callable[[str], bool]
) -> Iterator[Span]:
    """Cut tensors, in the order of the load, into spans of at most `block` bytes.

    Tensors that follow each other in the file, too, are read together.
    """
    start = end = 0
    begin_at, mine = at, False
    for entry in entries:
        if entry.start == entry.end:
            continue
        if entry.start != end or own(entry.name) != mine:
            yield from _blocks(start, end, begin_at, block, mine)
            start, begin_at, mine = entry.start, at, own(entry.name)
        end = entry.end
        at += entry.end - entry.start
    yield from _blocks(start, end, begin_at, block, mine)


def _blocks(start: int, end: int, at: int, block: int, own: bool) -> Iterator[Span]:
    for begin in range(start, end, block):
        yield Span(start=begin, end=min(begin + block, end), at=at + begin - start, own=own)


def share_out(spans: Iterable[Span], *, index: int, count: int) -> Iterator[Span]:
    """Yield the spans of one rank of `count`: its own, and each so many-th of the others."""
    turn = 0
    for span in spans:
        if span.own:
            yield span
            continue
        if turn % count == index:
            yield span
        turn += 1
