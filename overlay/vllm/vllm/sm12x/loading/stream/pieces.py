# SPDX-License-Identifier: Apache-2.0
"""Which bytes of a file a view of a tensor takes, cut into pieces that fit a slot. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

# Holes between rows from this size on are left out; smaller ones cost more to leave out.
HOLE = 4 << 10
# Where the neighbours need what is in the holes, and all goes through the page cache, it is this.
SHARED_HOLE = 64 << 10


@dataclass(frozen=True, kw_only=True)
class View:
    """Elements of a file, as a strided tensor: `start` is where element 0 of its storage lies.

    `offset` and `strides` are counted in elements, as torch does; no stride is negative.
    """

    start: int
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def first(self) -> int:
        """The file's byte at which the view begins."""
        return self.start + self.offset * self.itemsize

    @property
    def extent(self) -> int:
        """Bytes from the view's first to its last element, with all that lies between."""
        if 0 in self.shape:
            return 0
        span = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return (1 + span) * self.itemsize

    def narrow(self, dim: int, start: int, length: int) -> "View":
        shape = (*self.shape[:dim], length, *self.shape[dim + 1 :])
        return replace(self, shape=shape, offset=self.offset + start * self.strides[dim])


@dataclass(frozen=True, kw_only=True)
class Read:
    """`size` bytes of a file from `at` on, for a slot's byte `to`."""

    at: int
    size: int
    to: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Part of a view that is read into one slot.

    `narrows` are dimension, start and length of the part; `shape`, `strides` and `offset` (in
    elements) describe it within the slot. `exact`: reads must be of these very bytes.
    """

    narrows: tuple[tuple[int, int, int], ...]
    reads: tuple[Read, ...]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    exact: bool = False


def cut(view: View, limit: int, align: int, hole: int = HOLE) -> Iterator[Piece]:
    """Cut a view into pieces of at most `limit` bytes of slot.

    Reads begin and end at multiples of `align`, which the pieces' offsets allow for, but for rows
    whose distance is no such multiple: those are exact. Raises ValueError when an element alone
    is larger than a slot, which no dtype is.
    """
    if 0 in view.shape:
        return
    yield from _cut(view, limit, align, hole, ())


def _cut(
    view: View, limit: int, align: int, hole: int, narrows: tuple[tuple[int, int, int], ...]
) -> Iterator[Piece]:
    dim = _outermost(view)
    if dim is None:
        if view.itemsize + 2 * align > limit:
            raise ValueError(f"a slot of {limit} bytes is too small for reads of {align} bytes")
        yield _whole(view, align, narrows)
        return
    rows, pitch = view.shape[dim], view.strides[dim] * view.itemsize
    row = view.narrow(dim, 0, 1)
    gap = pitch - row.extent
    if gap < hole and view.extent + 2 * align <= limit:
        yield _whole(view, align, narrows)
    elif gap < hole and pitch + row.extent + 2 * align <= limit:
        step = max(1, (limit - 2 * align - row.extent) // pitch + 1)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            part = view.narrow(dim, start, count)
            yield _whole(part, align, (*narrows, (dim, start, count)))
    elif gap >= hole and row.extent + 2 * align <= limit and _is_dense(row, hole):
        yield from _rows(view, dim, limit, align, narrows)
    else:
        for start in range(rows):
            part = view.narrow(dim, start, 1)
            yield from _cut(part, limit, align, hole, (*narrows, (dim, start, 1)))


def _outermost(view: View) -> int | None:
    """The dimension whose elements are farthest apart."""
    dims = [d for d, n in enumerate(view.shape) if n > 1 and view.strides[d] > 0]
    return max(dims, key=lambda d: view.strides[d], default=None)


def _is_dense(view: View, hole: int) -> bool:
    """Whether a view has no holes that are worth leaving out."""
    while (dim := _outermost(view)) is not None:
        row = view.narrow(dim, 0, 1)
        if view.strides[dim] * view.itemsize - row.extent >= hole:
            return False
        view = row
    return True


def _whole(view: View, align: int, narrows: tuple[tuple[int, int, int], ...]) -> Piece:
    """Read a view with all that lies between its elements."""
    begin = view.first - view.first % align
    end = -(-(view.first + view.extent) // align) * align
    return Piece(
        narrows=narrows,
        reads=(Read(at=begin, size=end - begin, to=0),),
        shape=view.shape,
        strides=view.strides,
        offset=(view.first - begin) // view.itemsize,
    )


def _rows(
    view: View, dim: int, limit: int, align: int, narrows: tuple[tuple[int, int, int], ...]
) -> Iterator[Piece]:
    """Read rows one by one, as many of them as fit a slot, and lay them closer together."""
    rows, pitch = view.shape[dim], view.strides[dim] * view.itemsize
    extent = view.narrow(dim, 0, 1).extent
    exact = pitch % align != 0
    lead = 0 if exact else view.first % align
    room = -(-(lead + extent) // align) * align
    step = limit // room
    strides = (*view.strides[:dim], room // view.itemsize, *view.strides[dim + 1 :])
    for start in range(0, rows, step):
        count = min(step, rows - start)
        first = view.first + start * pitch
        reads = tuple(
            Read(
                at=first + row * pitch - lead,
                size=extent if exact else room,
                to=row * room,
            )
            for row in range(count)
        )
        yield Piece(
            narrows=(*narrows, (dim, start, count)),
            reads=reads,
            shape=view.narrow(dim, start, count).shape,
            strides=strides,
            offset=lead // view.itemsize,
            exact=exact,
        )


def merge_small(
    extents: Sequence[tuple[int, int]], small: int, limit: int
) -> dict[int, tuple[int, int]]:
    """Map the starts of small tensors to the range that they are read in.

    `extents` are (start, end) of a file's tensors. Small ones that follow each other go together,
    up to `limit` bytes; what isn't small is in no range.
    """
    found: dict[int, tuple[int, int]] = {}
    group: list[int] = []
    begin = last = -1
    for start, end in [*sorted(e for e in extents if e[0] < e[1]), (-1, -1)]:
        fits = 0 < end - start <= small
        if group and (not fits or start != last or end - begin > limit):
            found.update(dict.fromkeys(group, (begin, last)))
            group = []
        if fits:
            begin = begin if group else start
            group.append(start)
            last = end
    return found
