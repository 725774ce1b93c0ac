# SPDX-License-Identifier: Apache-2.0
"""Pages of files, locks over parts of them, reads past the page cache: the kernel's answers."""

import ctypes
import errno
import fcntl
import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loading_files import disk_folder
from vllm.sm12x.loading.files import pages
from vllm.sm12x.loading.files.holds import Hold
from vllm.sm12x.loading.files.pages import PAGE
from vllm.sm12x.loading.stream import direct

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with disk_folder(tmp_path) as folder:
        yield folder


@pytest.fixture
def file(disk: Path) -> Iterator[int]:
    """A file of ten pages and a bit, clean, of which nothing is in the page cache."""
    path = disk / "file"
    path.write_bytes(bytes(range(256)) * (10 * PAGE // 256) + b"rest")
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    pages.give_back(fd)
    yield fd
    os.close(fd)


def bring(fd: int, start: int, end: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, end - start, start)


def test_resident_pages_are_counted_where_they_are(file: int) -> None:
    whole = 10 * PAGE + 4
    assert pages.count_resident(file, 0, whole) == 0
    bring(file, 3 * PAGE, 5 * PAGE)

    assert pages.count_resident(file, 0, whole) == 2
    assert pages.count_resident(file, 3 * PAGE, 5 * PAGE) == 2
    assert pages.count_resident(file, 4 * PAGE + 1, 4 * PAGE + 2) == 1
    assert pages.count_resident(file, 5 * PAGE, whole) == 0
    assert pages.count_resident(file, 4 * PAGE, 4 * PAGE) == 0
    assert pages.count_resident(file, 4 * PAGE, 3 * PAGE) == 0


@pytest.mark.parametrize(
    ("start", "end", "there"),
    [(3 * PAGE, 5 * PAGE, True), (3 * PAGE + 7, 5 * PAGE - 7, True),
     (3 * PAGE, 5 * PAGE + 1, False), (3 * PAGE - 1, 5 * PAGE, False), (0, 1, False),
     (8, 8, True), (9, 8, True)],
)  # fmt: skip
def test_a_range_is_resident_if_all_is(file: int, start: int, end: int, there: bool) -> None:
    bring(file, 3 * PAGE, 5 * PAGE)

    assert pages.is_resident(file, start, end) is there


def test_many_looks_are_one_count(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(file, 1 * PAGE, 8 * PAGE)
    monkeypatch.setattr(pages, "_LOOK", 2 * PAGE)

    assert pages.count_resident(file, 0, 10 * PAGE + 4) == 7
    assert pages.count_resident(file, 2 * PAGE, 7 * PAGE) == 5


def test_what_is_given_back_is_gone_and_the_rest_stays(file: int) -> None:
    bring(file, 0, 10 * PAGE)
    pages.give_back(file, 2 * PAGE, 5 * PAGE)
    assert not pages.is_resident(file, 2 * PAGE, 2 * PAGE + 1)
    assert not pages.is_resident(file, 4 * PAGE, 5 * PAGE)
    assert pages.is_resident(file, 0, 2 * PAGE)
    assert pages.is_resident(file, 5 * PAGE, 10 * PAGE)

    pages.give_back(file)

    assert pages.count_resident(file, 0, 10 * PAGE) == 0


def test_files_are_given_back_whole_and_missing_ones_passed_over(disk: Path) -> None:
    paths = [str(disk / name) for name in ("one", "missing", "two")]
    for path in (paths[0], paths[2]):
        Path(path).write_bytes(bytes(3 * PAGE))
        with Path(path).open("rb") as opened:
            os.fsync(opened.fileno())
            opened.read()
    there = [paths[0], paths[2]]
    assert pages.share_resident(there) == 1.0

    pages.give_back_files(paths)

    assert pages.share_resident(there) == 0.0


def test_the_share_is_of_bytes(disk: Path) -> None:
    small, large, empty = (str(disk / name) for name in ("small", "large", "empty"))
    for path, size in ((small, 2 * PAGE), (large, 6 * PAGE), (empty, 0)):
        Path(path).write_bytes(bytes(size))
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        pages.give_back(fd)
        if path == small:
            bring(fd, 0, size)
        if path == large:
            bring(fd, PAGE, 3 * PAGE)
        os.close(fd)

    assert pages.share_resident([small, empty, large]) == pytest.approx(4 / 8)
    assert pages.share_resident([large]) == pytest.approx(2 / 6)
    assert pages.share_resident([empty]) == 0.0
    assert pages.share_resident([]) == 0.0
    with pytest.raises(FileNotFoundError):
        pages.share_resident([small, str(disk / "missing")])


def test_what_is_not_told_is_not_guessed(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "is_ours", lambda fd: False)

    assert pages.count_resident(file, 0, PAGE) is None
    assert not pages.is_resident(file, 0, PAGE)
    assert pages.share_resident([f"/proc/self/fd/{file}"]) is None


def test_a_file_that_cannot_be_mapped_tells_nothing(file: int) -> None:
    assert pages.count_resident(os.open("/proc/self/status", os.O_RDONLY), 0, PAGE) is None


@pytest.mark.parametrize(
    ("euid", "writable", "ours"),
    [(0, False, True), (1234, False, True), (99, False, False), (99, True, True)],
)
def test_a_file_is_ours_by_owner_or_by_the_right_to_write(
    file: int, monkeypatch: pytest.MonkeyPatch, euid: int, writable: bool, ours: bool
) -> None:
    status = os.stat_result((stat.S_IFREG | 0o644, 1, 1, 1, 1234, 0, 0, 0, 0, 0))
    asked = []

    def access(path: str, mode: int) -> bool:
        asked.append((path, mode))
        return writable

    monkeypatch.setattr(os, "fstat", lambda fd: status)
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(os, "access", access)

    assert pages.is_ours(file) is ours
    assert asked in ([], [(f"/proc/self/fd/{file}", os.W_OK)])


def test_a_large_file_is_sampled_from_its_first_byte_to_its_last_pages() -> None:
    limit = 16 * 4 * MIB
    assert list(pages.samples(0)) == [(0, 0)]
    assert list(pages.samples(limit)) == [(0, limit)]

    for size in (limit + 1, 5_000_000_000):
        found = list(pages.samples(size))

        assert len(found) == 16
        assert found[0] == (0, 4 * MIB)
        assert all(start % PAGE == 0 and end - start == 4 * MIB for start, end in found)
        assert size - PAGE - 15 <= found[-1][1] <= size
        assert all(one[0] < other[0] for one, other in itertools.pairwise(found))


def test_warming_by_advice_asks_for_all_and_waits_for_the_last_page(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: asked.append(rest))
    monkeypatch.setattr(pages, "CALL", 2 * PAGE)

    pages.warm_by_advice(file, PAGE, 6 * PAGE + 9, lambda: False)

    will = os.POSIX_FADV_WILLNEED
    assert asked == [(PAGE, 2 * PAGE, will), (3 * PAGE, 2 * PAGE, will), (5 * PAGE, PAGE + 9, will)]
    assert pages.is_resident(file, 6 * PAGE, 6 * PAGE + 9)

    asked.clear()
    pages.warm_by_advice(file, PAGE, 6 * PAGE, lambda: len(asked) == 1)
    assert len(asked) == 1


@pytest.fixture
def spliced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Where pages were asked for through a pipe, and how many bytes; two pages a call."""
    monkeypatch.setattr(pages, "CALL", 2 * PAGE)
    asked: list[tuple[int, int]] = []
    true = os.splice

    def splice(source: int, sink: int, count: int, **options: Any) -> int:
        if "offset_src" in options:
            asked.append((options["offset_src"], count))
        return true(source, sink, count, **options)

    monkeypatch.setattr(os, "splice", splice)
    return asked


def test_warming_by_a_pipe_brings_in_all_and_stops_when_told(
    file: int, spliced: list[tuple[int, int]]
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    pages.warm_by_pipe(file, PAGE, 6 * PAGE + 9, lambda: False)

    assert spliced[0] == (PAGE, 2 * PAGE)
    assert sum(count for _, count in spliced) >= 5 * PAGE + 9
    assert spliced[-1][0] + spliced[-1][1] == 6 * PAGE + 9
    assert pages.is_resident(file, PAGE, 6 * PAGE + 9)
    spliced.clear()
    pages.warm_by_pipe(file, 0, 6 * PAGE, lambda: len(spliced) == 2)
    assert len(spliced) == 2
    spliced.clear()
    pages.warm_by_pipe(file, 10 * PAGE, 20 * PAGE, lambda: False)
    assert spliced == [(10 * PAGE, 2 * PAGE), (10 * PAGE + 4, 2 * PAGE)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_warming_reads_where_a_file_system_knows_no_pipes(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "CALL", 2 * PAGE)
    reads: list[tuple[int, int]] = []
    true = os.preadv

    def preadv(fd: int, buffers: Any, at: int) -> int:
        reads.append((at, len(buffers[0])))
        return true(fd, buffers, at)

    def refuse(*_: Any, **__: Any) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "splice", refuse)

    pages.warm_by_pipe(file, PAGE, 6 * PAGE + 9, lambda: False)

    assert reads == [(PAGE, 2 * PAGE), (3 * PAGE, 2 * PAGE), (5 * PAGE, PAGE + 9)]
    assert pages.is_resident(file, PAGE, 6 * PAGE + 9)
    reads.clear()
    pages.warm_by_pipe(file, 0, 6 * PAGE, lambda: len(reads) == 2)
    assert len(reads) == 2
    reads.clear()
    pages.warm_by_pipe(file, 10 * PAGE, 20 * PAGE, lambda: False)
    assert reads == [(10 * PAGE, 2 * PAGE), (10 * PAGE + 4, 2 * PAGE)]


def test_a_user_without_large_pipes_warms_through_small_ones(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)

    pages.warm_by_pipe(file, 0, 10 * PAGE + 4, lambda: False)

    assert pages.is_resident(file, 0, 10 * PAGE + 4)


def test_a_private_mapping_keeps_writes_to_itself(file: int) -> None:
    address = pages.map_private(file, PAGE, 2 * PAGE)
    mapped = (ctypes.c_ubyte * (2 * PAGE)).from_address(address)

    assert bytes(mapped[:4]) == b"\0\1\2\3"
    mapped[0] = 77

    assert os.pread(file, 1, PAGE) == b"\0"
    assert mapped[0] == 77
    pages.unmap(address, 2 * PAGE)
    maps = Path("/proc/self/maps").read_text(encoding="ascii")
    assert f"{address:x}-" not in maps


def test_what_cannot_be_mapped_is_an_error_with_the_kernels_words(file: int) -> None:
    with pytest.raises(OSError, match=f"Invalid argument: {PAGE} bytes of a file") as caught:
        pages.map_private(file, 1, PAGE)
    assert caught.value.errno == 22


def test_read_ahead_is_the_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path.stat().st_dev
    place = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    wanted = int(place.read_text(encoding="ascii")) if place.exists() else None

    assert pages.read_ahead_kib(str(tmp_path)) == wanted
    assert pages.read_ahead_kib(str(tmp_path / "missing")) is None
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "512\n")
    assert pages.read_ahead_kib(str(tmp_path)) == 512
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: "auto\n")
    assert pages.read_ahead_kib(str(tmp_path)) is None


@pytest.mark.parametrize("local", [True, False])
def test_holds_see_each_other_and_shrink(
    file: int, disk: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    other = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    one, two = Hold(file, local=local), Hold(other, local=local)
    assert one.works
    assert two.works
    assert one.has_company()
    assert two.has_company()

    two.let_go(0, 3 * PAGE)

    assert not one.has_company(0, 3 * PAGE)
    assert not one.has_company(PAGE, 2 * PAGE)
    assert one.has_company(2 * PAGE, 3 * PAGE + 1)
    assert one.has_company(3 * PAGE)
    assert two.has_company(0, PAGE)
    two.let_go(5 * PAGE, 0)
    assert one.has_company(3 * PAGE, 5 * PAGE)
    assert not one.has_company(5 * PAGE)
    two.close()
    assert not one.has_company()
    assert not two.works
    assert two.has_company()  # who holds nothing can't tell
    one.close()
    os.close(other)


def test_a_hold_over_a_network_file_locks_a_file_of_this_user_beside_it(
    file: int, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    hold = Hold(file, local=False)
    folder = disk / f"vllm-sm12x-{os.getuid()}"
    status = os.fstat(file)
    lock = folder / f"{status.st_dev}-{status.st_ino}.lock"

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    own = os.open(lock, os.O_RDONLY)
    second = Hold(own, local=True)
    assert second.has_company()
    hold.close()
    assert not second.has_company()
    second.close()
    os.close(own)


def test_a_link_in_the_place_of_a_lock_is_not_followed(
    file: int, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    folder = disk / f"vllm-sm12x-{os.getuid()}"
    folder.mkdir()
    status = os.fstat(file)
    (folder / f"{status.st_dev}-{status.st_ino}.lock").symlink_to(disk / "target")

    hold = Hold(file, local=False)

    assert not hold.works
    assert not (disk / "target").exists()
    assert hold.has_company()
    hold.let_go(0, PAGE)
    hold.close()


def test_where_locks_fail_company_is_assumed(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Hold(file, local=True)
    assert not hold.has_company()

    def refuse(*_: object) -> None:
        raise OSError(37, "no locks available")

    monkeypatch.setattr(fcntl, "fcntl", refuse)

    assert hold.has_company()
    assert not Hold(file, local=True).works
    hold.close()


def test_direct_reads_are_aligned_as_the_file_system_says(file: int) -> None:
    opened = direct.open_direct(file)
    if opened is None:
        pytest.skip("the file system under the tests has no direct reads")
    assert os.get_inheritable(opened.fd) is False
    assert fcntl.fcntl(opened.fd, fcntl.F_GETFL) & os.O_DIRECT
    assert opened.fd != file
    for size in (opened.alignment.memory, opened.alignment.offset):
        assert size & (size - 1) == 0
        assert 0 < size <= 1 << 16
    number = opened.fd
    del opened
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


class Statx:
    """The C library, with an answer of its own to statx."""

    def __init__(self, status: int, mask: int, memory: int, offset: int) -> None:
        self.status, self.words = status, {0: mask, 152: memory, 156: offset}

    def statx(self, fd: int, path: bytes, flags: int, mask: int, answer: Any) -> int:
        assert (path, flags, mask) == (b"", 0x1000, 0x2000)
        for at, word in self.words.items():
            answer[at : at + 4] = list(word.to_bytes(4, "little"))
        return self.status


ALIGNED = direct.Alignment(memory=512, offset=4096)


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        (Statx(0, 0x2000, 512, 4096), ALIGNED),
        (Statx(0, 0x2FFF, 512, 4096), ALIGNED),
        # An older kernel, or a file system that doesn't know, or a call that fails: a page.
        (Statx(0, 0x0FFF, 512, 4096), direct.Alignment()),
        (Statx(-1, 0x2000, 512, 4096), direct.Alignment()),
        (object(), direct.Alignment()),
        # No direct reads, or such as no page of memory fits.
        (Statx(0, 0x2000, 0, 0), None),
        (Statx(0, 0x2000, PAGE, 512), direct.Alignment(memory=PAGE, offset=512)),
        (Statx(0, 0x2000, 2 * PAGE, 512), None),
    ],
)
def test_what_the_kernel_answers_about_direct_reads(
    file: int, monkeypatch: pytest.MonkeyPatch, library: Any, expected: direct.Alignment | None
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: library)

    assert direct.Alignment() == direct.Alignment(memory=PAGE, offset=PAGE)
    assert direct.ask_alignment(file) == expected
    if expected is None:
        assert direct.open_direct(file) is None


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir() if path.exists()}


@pytest.mark.parametrize("failing", ["open", "preadv"])
def test_a_file_that_refuses_direct_reads_has_none_and_nothing_stays_open(
    file: int, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(22, "invalid argument")

    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, failing, refuse)
        assert direct.open_direct(file) is None
    assert open_files() == before
