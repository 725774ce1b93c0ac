# SPDX-License-Identifier: Apache-2.0
"""Read what the load is going to take next, judging by what it took of the layer before.

Nothing is guessed that hasn't been seen: a tensor is read ahead only if the load took parts of the
tensor with the same name in another layer, and then the same parts. So what a rank skips (other
experts, other stages) isn't read, but for one layer where a stage ends.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from ..files.headers import Entry
from .pieces import View
from .reader import Ahead, Reader, ShardReader

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
# How many tensors to look ahead at most, and how many parts of one are remembered.
_TENSORS, _PARTS = 64, 64


def without_layer(name: str) -> str:
    """Return a tensor's name with its first number, which is that of the layer, left out."""
    return _LAYER.sub("#", name, count=1)


class Foresight:
    """What has been taken of each kind of tensor, and what is being read because of it."""

    def __init__(self, reader: Reader, *, spare: int) -> None:
        """`spare` slots stay free for what hasn't been foreseen."""
        self._reader, self._spare = reader, spare
        self._seen: dict[str, tuple[tuple[int, ...], int, tuple[View, ...]]] = {}
        self._taken: dict[int, list[View]] = {}
        self._ahead: dict[tuple[int, View], Ahead] = {}
        self._shard: ShardReader | None = None
        self._entries: Sequence[Entry] = ()
        self._next = 0

    def begin(self, shard: ShardReader) -> None:
        """Go on to a shard; what was read ahead in the one before is done with."""
        self.close()
        self._shard, self._entries, self._next = shard, shard.shard.wanted, 0

    def look(self, position: int) -> None:
        """Read ahead from the shard's tensor `position` on, as far as slots go."""
        if self._shard is None:
            return
        self._next = max(self._next, position)
        while self._next < min(position + _TENSORS, len(self._entries)):
            if not self._read_ahead(self._shard, self._entries[self._next]):
                return
            self._next += 1

    def _read_ahead(self, shard: ShardReader, entry: Entry) -> bool:
        """Begin to read what will be taken of a tensor; False if there are no slots for it."""
        if entry.start in shard.together:
            return True
        for view in self._foreseen(entry):
            if (entry.start, view) in self._ahead:
                continue
            ahead = self._reader.start(shard, view, self._spare)
            if ahead is None:
                return False
            self._ahead[entry.start, view] = ahead
        return True

    def _foreseen(self, entry: Entry) -> list[View]:
        shape, size, views = self._seen.get(without_layer(entry.name), ((), 0, ()))
        if shape != entry.shape or size != entry.end - entry.start:
            return []
        return [replace(view, start=entry.start) for view in views]

    def claim(self, shard: ShardReader, entry: Entry, view: View) -> Ahead | None:
        """Note that a view is taken now, and return what has been read of it ahead, if it was."""
        if shard is not self._shard:
            return None
        self._taken.setdefault(entry.start, []).append(view)
        return self._ahead.pop((entry.start, view), None)

    def passed(self, entry: Entry) -> None:
        """The load has asked for the tensor after this one."""
        taken = self._taken.pop(entry.start, [])
        if len(taken) <= _PARTS:
            views = tuple(replace(view, start=0) for view in dict.fromkeys(taken))
            self._seen[without_layer(entry.name)] = (entry.shape, entry.end - entry.start, views)
        for key in [key for key in self._ahead if key[0] == entry.start]:
            self._reader.forget(self._ahead.pop(key))

    def close(self) -> None:
        """Give up what is being read ahead."""
        for ahead in self._ahead.values():
            self._reader.forget(ahead)
        self._ahead.clear()
        self._taken.clear()
        self._shard = None
