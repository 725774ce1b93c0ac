# SPDX-License-Identifier: Apache-2.0
"""What is read for a view of a tensor: each byte that it takes, and few others."""

import random

import pytest
import torch
from vllm.sm12x.loading.stream.pieces import HOLE, Piece, View, cut, merge_small

LIMIT = 256 << 10


def describe(tensor: torch.Tensor, start: int = 0) -> View:
    return View(
        start=start,
        itemsize=tensor.element_size(),
        shape=tuple(tensor.shape),
        strides=tensor.stride(),
        offset=tensor.storage_offset(),
    )


def fill(target: torch.Tensor, pieces: list[Piece], file: bytes) -> int:
    """Do what a reader does, and return the bytes read."""
    total = 0
    for piece in pieces:
        slot = bytearray(LIMIT)
        for read in piece.reads:
            part = file[read.at : read.at + read.size]
            assert read.to + read.size <= LIMIT
            slot[read.to : read.to + len(part)] = part
            total += read.size
        source = torch.frombuffer(slot, dtype=target.dtype)
        part_of = target
        for dim, start, length in piece.narrows:
            part_of = part_of.narrow(dim, start, length)
        part_of.copy_(source.as_strided(piece.shape, piece.strides, piece.offset))
    return total


def file_of(tensor: torch.Tensor, start: int) -> bytes:
    data: bytes = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return bytes(start) + data


VIEWS = {
    "whole": lambda t: t,
    "rows": lambda t: t[100:300],
    "columns": lambda t: t.narrow(1, 512, 128),
    "wide columns": lambda t: t[:, 1024:],
    "transposed": lambda t: t.t(),
    "transposed columns": lambda t: t[:, 64:128].t(),
    "one element": lambda t: t[3, 5],
    "every third row": lambda t: t[::3],
    "spread": lambda t: t[:1].expand(7, -1),
    "three dimensions": lambda t: t.view(8, 64, 2048)[:, 5:9, 100:200],
    "middle": lambda t: t.view(64, 8, 2048)[:, 3],
    "permuted": lambda t: t.view(8, 64, 2048).permute(2, 0, 1)[7:30],
    "empty": lambda t: t[:0],
}


@pytest.mark.parametrize("start", [0, 72, 4096 + 8])
@pytest.mark.parametrize("align", [64, 512, 4096])
@pytest.mark.parametrize("name", VIEWS)
def test_pieces_of_any_view_are_the_view(name: str, align: int, start: int) -> None:
    whole = torch.arange(512 * 2048, dtype=torch.int16).view(512, 2048)
    view = VIEWS[name](whole)
    target = torch.full(view.shape, -1, dtype=view.dtype)
    pieces = list(cut(describe(view, start), LIMIT, align))
    fill(target, pieces, file_of(whole, start))
    assert torch.equal(target, view)


@pytest.mark.parametrize(
    ("name", "most"), [("whole", 1.02), ("rows", 1.02), ("columns", 3.0), ("wide columns", 1.2)]
)
def test_few_other_bytes_are_read(name: str, most: float) -> None:
    # Rows of 4 KiB: a column shard of 256 bytes has holes that are too small to leave out.
    whole = torch.arange(512 * 2048, dtype=torch.int16).view(512, 2048)
    wide = torch.arange(64 * 16384, dtype=torch.int16).view(64, 16384)
    view = VIEWS[name](wide if "columns" in name else whole)
    size = view.numel() * view.element_size()
    read = sum(r.size for piece in cut(describe(view), LIMIT, 512) for r in piece.reads)
    assert size <= read <= most * size + 1024


@pytest.mark.parametrize(("hole", "ranges"), [(HOLE - 8, 1), (HOLE, 32)])
def test_a_hole_is_left_out_from_its_size_on(hole: int, ranges: int) -> None:
    view = View(start=0, itemsize=8, shape=(32, 16), strides=(16 + hole // 8, 1))
    pieces = list(cut(view, LIMIT, 64))
    assert sum(len(piece.reads) for piece in pieces) == ranges


def test_random_views_are_themselves() -> None:
    rng = random.Random(3)
    whole = torch.arange(24 * 40 * 96, dtype=torch.int32).view(24, 40, 96)
    file = file_of(whole, 8)
    for _ in range(300):
        view = whole.permute(*rng.sample(range(3), 3))
        for dim in range(3):
            start = rng.randrange(view.shape[dim])
            stop = rng.randrange(start, view.shape[dim]) + 1
            view = view[(slice(None),) * dim + (slice(start, stop, rng.choice((1, 1, 2, 5))),)]
        target = torch.full(view.shape, -1, dtype=view.dtype)
        align = rng.choice((64, 512))
        pieces = list(cut(describe(view, 8), LIMIT, align, rng.choice((1, 512, HOLE))))
        fill(target, pieces, file)
        assert torch.equal(target, view), describe(view)


def test_a_slot_that_holds_no_aligned_element_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        list(cut(View(start=0, itemsize=4, shape=(1,), strides=(1,)), 1024, 512))


def test_small_tensors_that_follow_each_other_are_read_together() -> None:
    extents = [(0, 10), (10, 20), (20, 120), (120, 130), (140, 150), (150, 150), (150, 160)]
    found = merge_small(extents, 16, 64)
    assert found == {0: (0, 20), 10: (0, 20), 120: (120, 130), 140: (140, 160), 150: (140, 160)}


def test_what_is_read_together_has_a_limit() -> None:
    extents = [(start, start + 10) for start in range(0, 100, 10)]
    ranges = merge_small(extents, 16, 30).values()
    assert all(end - start <= 30 for start, end in ranges)
    assert len(set(ranges)) == 4
