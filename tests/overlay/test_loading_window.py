# SPDX-License-Identifier: Apache-2.0
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loading_files as files_of
import pytest
import torch
from loading_files import Tensors, assert_same, evict, resident, sm12x_threads, window
from vllm.sm12x.loading.facts.node import Neighbours
from vllm.sm12x.loading.files import behind, pages
from vllm.sm12x.loading.files.checkpoint import Checkpoint
from vllm.sm12x.loading.files.headers import Entry
from vllm.sm12x.loading.window.fill import Shape, Window
from vllm.sm12x.loading.window.spans import cut, share_out


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with files_of.disk_folder(tmp_path) as folder:
        yield folder


@pytest.fixture
def checkpoint(disk: Path) -> tuple[list[str], Tensors]:
    files, tensors = files_of.write(disk)
    return files, tensors


def wait_until(happened: Callable[..., bool]) -> None:
    """Wait for what another thread does; a test that never sees it fails."""
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it didn't happen within 30 s")


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Ranges that threads have begun to bring in, in turn."""
    seen: list[tuple[int, int]] = []

    def noted(bring_in: Callable[..., None]) -> Callable[..., None]:
        def note(fd: int, start: int, end: int, stopped: Callable[[], bool]) -> None:
            seen.append((start, end))
            bring_in(fd, start, end, stopped)

        return note

    for name in ("warm_by_advice", "warm_by_pipe"):
        monkeypatch.setattr(pages, name, noted(getattr(pages, name)))
    return seen


@pytest.mark.parametrize("by_advice", [True, False])
def test_all_tensors_come_in_the_librarys_order_and_are_the_same(
    checkpoint: tuple[list[str], Tensors], by_advice: bool
) -> None:
    files, expected = checkpoint
    shape = Shape(ahead=64 << 20, block=1 << 20, threads=2, by_advice=by_advice)
    found = {name: tensor.clone() for name, tensor in window(files, shape)}
    assert sm12x_threads() == []
    assert_same(found, expected)
    assert list(found) == files_of.order_of_the_library(files)


def test_a_tensor_that_is_kept_and_written_to_is_a_private_one(
    checkpoint: tuple[list[str], Tensors],
) -> None:
    files, expected = checkpoint
    kept = dict(window(files, drop=True))
    for tensor in kept.values():
        if tensor.dtype == torch.bfloat16:
            tensor.neg_().neg_()
    gc.collect()
    assert_same(kept, expected)
    again = {name: tensor.clone() for name, tensor in window(files)}
    assert_same(again, expected)


def test_the_files_are_there_before_the_load_touches_them(
    checkpoint: tuple[list[str], Tensors],
) -> None:
    files, _ = checkpoint
    weights = window(files)
    next(weights)
    size = sum(Path(file).stat().st_size for file in files)
    # But for headers, alone in their page.
    wait_until(lambda: resident(files) >= size - 2 * len(files) * pages.PAGE)
    weights.close()


def test_reading_stays_within_the_window(disk: Path, brought: list[tuple[int, int]]) -> None:
    files, _ = files_of.write(disk, shards=1, layers=8)
    ahead = Shape(ahead=3 << 20, block=1 << 20, threads=2, by_advice=True)
    loaded = Checkpoint(files)
    # By advice, which brings in what is asked for and no more.
    reading = Window(loaded, ahead, own=lambda name: True)
    wait_until(lambda: sum(end - start for start, end in brought) >= 3 << 20)
    time.sleep(0.2)
    assert sum(end - start for start, end in brought) <= 4 << 20
    reading.advance(2 << 20)
    wait_until(lambda: sum(end - start for start, end in brought) >= 5 << 20)
    time.sleep(0.2)
    assert sum(end - start for start, end in brought) <= 6 << 20
    reading.close()
    loaded.close()


@pytest.mark.parametrize("own", [True, False])
def test_what_only_one_rank_needs_comes_without_what_lies_beside_it(
    checkpoint: tuple[list[str], Tensors], monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    files, _ = checkpoint
    used: set[str] = set()
    for name in ("warm_by_advice", "warm_by_pipe"):
        true = getattr(pages, name)

        def note(*arguments: Any, name: str = name, true: Callable[..., None] = true) -> None:
            used.add(name)
            true(*arguments)

        monkeypatch.setattr(pages, name, note)
    for _ in window(files, own=lambda name: own):
        pass
    assert used == {"warm_by_advice" if own else "warm_by_pipe"}


def test_what_is_resident_is_skipped(
    checkpoint: tuple[list[str], Tensors], brought: list[tuple[int, int]]
) -> None:
    files, _ = checkpoint
    Path(files[0]).read_bytes()
    for _ in window(files):
        pass
    size = Path(files[1]).stat().st_size
    assert sum(end - start for start, end in brought) <= size


@pytest.mark.parametrize(("nodes", "ranks"), [(8, 1), (1, 8), (2, 4), (4, 2)])
def test_each_node_warms_all_that_its_ranks_read(
    disk: Path, brought: list[tuple[int, int]], nodes: int, ranks: int
) -> None:
    files, _ = files_of.write(disk, shards=1)
    shape = Shape(ahead=1 << 30, block=64 << 10, threads=1, by_advice=True)
    for _ in range(nodes):
        evict(files)
        del brought[:]
        for rank in range(ranks):
            loaded = Checkpoint(files)
            reading = Window(loaded, shape, neighbours=Neighbours(index=rank, count=ranks))
            for thread in reading._threads:
                thread.join(30)
            reading.close()
            loaded.close()
        shard = Checkpoint(files).shard(0)
        assert shard is not None
        fd, ranges = shard.fd, [(entry.start, entry.end) for entry in shard.wanted]
        # The last page of a block may come before the others.
        wait_until(lambda fd=fd, ranges=ranges: all(pages.is_resident(fd, *r) for r in ranges))
        # Each byte once, by whichever rank.
        assert sum(end - start for start, end in brought) <= shard.end_at


def is_still(files: list[str]) -> bool:
    """Whether nothing is brought in for a while."""
    before = resident(files)
    time.sleep(0.2)
    return bool(resident(files) == before)


def test_closing_ends_all_reading_within_a_block(
    disk: Path, brought: list[tuple[int, int]]
) -> None:
    files, _ = files_of.write(disk, shards=4, layers=4)
    shape = Shape(ahead=1 << 30, block=1 << 20, threads=2, by_advice=False)
    for close_after in (1, 5):
        evict(files)
        weights = window(files, shape)
        for _ in range(close_after):
            next(weights)
        weights.close()
        asked = len(brought)
        assert asked and sm12x_threads() == []
        # What the kernel reads ahead by itself may still come, later where the machine is busy.
        wait_until(lambda: is_still(files))
        assert resident(files) < sum(Path(name).stat().st_size for name in files)
        assert len(brought) == asked


def test_a_failing_load_ends_all_reading(checkpoint: tuple[list[str], Tensors]) -> None:
    def fail() -> None:
        for number, _ in enumerate(window(checkpoint[0])):
            if number == 3:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    gc.collect()
    assert sm12x_threads() == []


def test_trouble_in_a_thread_does_not_break_the_load(
    checkpoint: tuple[list[str], Tensors],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files, expected = checkpoint

    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pages, "warm_by_pipe", fail)
    found = {name: tensor.clone() for name, tensor in window(files)}
    assert_same(found, expected)
    assert "the load goes on by itself" in caplog.text


def test_what_is_behind_the_load_is_given_back(disk: Path) -> None:
    files, _ = files_of.write(disk, shards=3, layers=6)
    sizes = [Path(file).stat().st_size for file in files]
    ahead = Shape(ahead=4 << 20, block=1 << 20, threads=1, by_advice=True)
    most = 0
    for _, tensor in window(files, ahead, drop=True):
        tensor.clone()
        most = max(most, resident(files))
    del tensor
    assert most < max(sizes) + behind.STEP < sum(sizes)
    assert resident(files) <= 2 << 20


def test_without_dropping_all_stays(checkpoint: tuple[list[str], Tensors]) -> None:
    files, _ = checkpoint
    for _, tensor in window(files):
        tensor.clone()
    size = sum(Path(file).stat().st_size for file in files)
    assert resident(files) >= size - 4 * pages.PAGE


def test_nothing_is_given_back_that_another_load_still_needs(disk: Path) -> None:
    files, _ = files_of.write(disk, shards=2, layers=6)
    slow = Checkpoint(files, drop=True)
    slow.hold_all()
    for _, tensor in window(files, drop=True):
        tensor.clone()
    del tensor
    size = sum(Path(file).stat().st_size for file in files)
    assert resident(files) >= 0.95 * size
    for index in range(len(files)):
        slow.shard(index)
        slow.done(index)
    assert resident(files) == 0


def test_files_of_others_are_not_dropped(
    checkpoint: tuple[list[str], Tensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = checkpoint
    monkeypatch.setattr(pages, "is_ours", lambda fd: False)
    for _, tensor in window(files, drop=True):
        tensor.clone()
    del tensor
    monkeypatch.undo()
    assert resident(files) >= 0.95 * sum(Path(file).stat().st_size for file in files)


def test_the_closing_line_says_bytes_seconds_and_speed(
    checkpoint: tuple[list[str], Tensors], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in window(checkpoint[0], drop=True):
            pass
    (line,) = [r.getMessage() for r in caplog.records if "ahead into the page cache" in r.message]
    for part in ("GiB", " s (", "GB/s", "there already", "back"):
        assert part in line


def entries(*extents: tuple[int, int]) -> list[Entry]:
    return [
        Entry(name=f"{n}", dtype=None, shape=(), start=start, end=end)
        for n, (start, end) in enumerate(extents)
    ]


def test_spans_follow_the_order_of_the_load() -> None:
    found = list(cut(entries((50, 90), (90, 100), (0, 50)), 7, block=30, own=lambda name: False))
    assert [(s.start, s.end, s.at) for s in found] == [
        (50, 80, 7), (80, 100, 37), (0, 30, 57), (30, 50, 87)
    ]  # fmt: skip


def test_spans_that_no_other_rank_reads_are_not_shared_out() -> None:
    found = cut(entries((0, 10), (10, 20), (20, 30)), 0, block=5, own=lambda name: name == "1")
    spans = list(found)
    assert [(s.start, s.own) for s in spans] == [
        (0, False), (5, False), (10, True), (15, True), (20, False), (25, False)
    ]  # fmt: skip
    first = [s.start for s in share_out(spans, index=0, count=2)]
    second = [s.start for s in share_out(spans, index=1, count=2)]
    assert (first, second) == ([0, 10, 15, 20], [5, 10, 15, 25])


def test_ranges_are_joined_where_they_touch() -> None:
    ranges: list[tuple[int, int]] = []
    for new in ((10, 20), (40, 50), (0, 5), (20, 40), (4, 11), (60, 70)):
        ranges = behind.insert(ranges, new)
    assert ranges == [(0, 50), (60, 70)]


def test_a_thread_that_hangs_in_the_kernel_does_not_hold_the_load(
    checkpoint: tuple[list[str], Tensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.sm12x.loading.window import fill as module

    release = threading.Event()
    monkeypatch.setattr(module, "_JOIN_SECONDS", 0.1)
    monkeypatch.setattr(pages, "warm_by_pipe", lambda *_: release.wait(60))
    try:
        assert len(list(window(checkpoint[0]))) == len(checkpoint[1])
    finally:
        release.set()
    wait_until(lambda: sm12x_threads() == [])
