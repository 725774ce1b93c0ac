# SPDX-License-Identifier: Apache-2.0
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loading_files as files_of
import pytest
import torch
from loading_files import Tensors, assert_same, evict, resident, sm12x_threads, stream
from vllm.sm12x.loading.files.checkpoint import Checkpoint
from vllm.sm12x.loading.stream import reader as reader_module
from vllm.sm12x.loading.stream.lazy import LazyTensor
from vllm.sm12x.loading.stream.slots import Slots


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with files_of.disk_folder(tmp_path) as folder:
        yield folder


@pytest.fixture
def checkpoint(disk: Path) -> tuple[list[str], Tensors]:
    files, tensors = files_of.write(disk)
    return files, tensors


def copy(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full(tensor.shape, 1, dtype=tensor.dtype).copy_(tensor)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all reads."""
    sizes: list[int] = []
    read = reader_module.ShardReader.read

    def note(self: Any, what: Any, into: Any, **options: Any) -> None:
        sizes.append(what.size)
        read(self, what, into, **options)

    monkeypatch.setattr(reader_module.ShardReader, "read", note)
    return sizes


def test_all_tensors_come_in_the_librarys_order_and_are_the_same(
    checkpoint: tuple[list[str], Tensors],
) -> None:
    files, expected = checkpoint
    found = {}
    for name, tensor in stream(files):
        assert isinstance(tensor, LazyTensor) and tensor.device.type == "cpu"
        found[name] = copy(tensor)
    assert resident(files) == 0
    assert sm12x_threads() == []
    assert_same(found, expected)
    assert list(found) == files_of.order_of_the_library(files)


def test_only_what_is_taken_is_read(
    checkpoint: tuple[list[str], Tensors], reads: list[int]
) -> None:
    files, expected = checkpoint
    taken = 0
    for name, tensor in stream(files):
        if ".experts.2.down" in name:
            part = tensor
        elif "o_proj" in name:
            part = tensor.narrow(1, 1024, 1024)
        elif "q_proj" in name:
            part = tensor[128:256]
        else:
            continue
        taken += part.numel() * part.element_size()
        assert torch.equal(files_of.bits(copy(part)), files_of.bits(_same(expected[name], part)))
    # Reads begin and end at blocks of the device.
    assert taken <= sum(reads) <= 1.25 * taken
    assert resident(files) == 0


def _same(whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    return whole.as_strided(part.shape, part.stride(), part.storage_offset())


def test_nothing_is_read_for_tensors_that_nobody_looks_into(
    checkpoint: tuple[list[str], Tensors], reads: list[int]
) -> None:
    for _, tensor in stream(checkpoint[0]):
        tensor.view(-1)[1:].unsqueeze(0)
    assert reads == []


def test_a_skipped_tensor_does_not_come(checkpoint: tuple[list[str], Tensors]) -> None:
    files, expected = checkpoint
    names = [name for name, _ in stream(files, skip=lambda name: ".experts." in name)]
    assert set(names) == {name for name in expected if ".experts." not in name}


def test_what_was_taken_of_one_layer_is_read_ahead_in_the_next_and_nothing_else(
    disk: Path, reads: list[int]
) -> None:
    files, _ = files_of.write(disk, shards=1, layers=6)
    needed = 0
    for name, tensor in stream(files):
        if ".experts.1.down" in name:
            needed += copy(tensor).nbytes
    assert needed == 6 * 256 * 512 * 2
    assert needed <= sum(reads) <= needed + 6 * 1024


def test_a_layer_that_is_skipped_costs_one_guess(disk: Path, reads: list[int]) -> None:
    files, _ = files_of.write(disk, shards=1, layers=8)
    needed = 0
    for name, tensor in stream(files):
        if ".down_proj" in name and int(name.split(".")[2]) < 3:
            needed += copy(tensor).nbytes
    assert sum(reads) <= needed + 4 * (256 * 512 * 2 + 1024) + 16 * 1024


def test_tensors_that_are_kept_are_good_after_the_end(
    checkpoint: tuple[list[str], Tensors],
) -> None:
    files, expected = checkpoint
    kept = dict(stream(files))
    assert sm12x_threads() == []
    assert_same({name: copy(tensor) for name, tensor in kept.items()}, expected)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    del kept
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) < descriptors


def test_more_than_all_slots_together_is_copied(disk: Path) -> None:
    from safetensors.torch import save_file

    large = torch.randn(5000, 1024)
    path = str(disk / "large.safetensors")
    save_file({"large": large}, path)
    evict([path])
    for _, tensor in stream([path]):
        assert torch.equal(copy(tensor), large)
        assert torch.equal(copy(tensor.t()), large.t())
        assert torch.equal(copy(tensor[:, ::2]), large[:, ::2])


@pytest.mark.parametrize("end", ["close", "fail"])
def test_closing_or_failing_leaves_no_thread_slot_or_file(
    checkpoint: tuple[list[str], Tensors], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    closed: list[Slots] = []
    close = Slots.close

    def note(self: Slots) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(Slots, "close", note)
    before = set(Path("/proc/self/fd").iterdir())
    weights = stream(checkpoint[0])
    with pytest.raises(ZeroDivisionError):
        for number, (_, tensor) in enumerate(weights):
            copy(tensor)
            if number == 9:
                del tensor
                if end == "close":
                    weights.close()
                1 / 0  # noqa: B018
    del weights
    gc.collect()
    assert sm12x_threads() == []
    assert len(closed) == 1 and closed[0]._tensors == []
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1


def test_a_file_that_becomes_shorter_is_an_error_and_nothing_is_left(disk: Path) -> None:
    files, _ = files_of.write(disk, shards=1, layers=6)
    with pytest.raises(OSError, match="too early: it has become shorter"):
        for number, (_, tensor) in enumerate(stream(files)):
            if number == 3:
                os.truncate(files[0], Path(files[0]).stat().st_size // 3)
            copy(tensor)
    assert sm12x_threads() == []


def test_a_file_that_is_replaced_goes_on_as_it_was(checkpoint: tuple[list[str], Tensors]) -> None:
    files, expected = checkpoint
    found = {}
    for number, (name, tensor) in enumerate(stream(files)):
        if number == 3:
            for file in files:
                Path(f"{file}.new").write_bytes(b"something else")
                Path(f"{file}.new").replace(file)
        found[name] = copy(tensor)
    assert_same(found, expected)


def test_a_read_error_ends_the_load_with_what_the_kernel_says(
    checkpoint: tuple[list[str], Tensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv, calls = os.preadv, []

    def fail(fd: int, buffers: Any, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 12:
            raise OSError(5, "Input/output error")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="Input/output error"):
        for _, tensor in stream(checkpoint[0]):
            copy(tensor)
    assert sm12x_threads() == []


def test_a_file_system_without_direct_reads_goes_through_the_page_cache_and_leaves_nothing(
    checkpoint: tuple[list[str], Tensors], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, expected = checkpoint
    monkeypatch.setattr(reader_module, "open_direct", lambda fd: None)
    assert_same({name: copy(tensor) for name, tensor in stream(files)}, expected)
    assert resident(files) <= 8 * 4096


def test_a_neighbour_that_reads_the_same_files_makes_reads_go_through_the_page_cache(
    checkpoint: tuple[list[str], Tensors], caplog: pytest.LogCaptureFixture
) -> None:
    files, expected = checkpoint
    neighbour = Checkpoint(files, drop=True)
    neighbour.hold_all()
    with caplog.at_level(logging.INFO):
        assert_same({name: copy(tensor) for name, tensor in stream(files)}, expected)
    assert "through the page cache" in caplog.text
    held = resident(files)
    assert held >= sum(tensor.nbytes for tensor in expected.values()) * 0.95
    # The last one out gives the pages back.
    for index in range(len(files)):
        neighbour.shard(index)
    neighbour.close()
    assert resident(files) == 0


def test_slots_are_never_shared_and_never_more_than_there_are() -> None:
    slots = Slots(count=3, size=4096)
    taken = [slots.take() for _ in range(3)]
    assert sorted(t for t in taken if t is not None) == [0, 1, 2]
    assert slots.take(wait=False) is None
    waiter: list[int | None] = []
    thread = threading.Thread(target=lambda: waiter.append(slots.take()))
    thread.start()
    slots.give(1)
    thread.join(10)
    assert waiter == [1]
    slots.close()
    with pytest.raises(RuntimeError, match="closed"):
        slots.take()


def test_slots_are_unlocked_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    class Runtime:
        def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
            calls.append(("lock", address))
            return 0

        def cudaHostUnregister(self, address: int) -> int:
            calls.append(("unlock", address))
            return 0

    monkeypatch.setattr("vllm.sm12x.loading.stream.slots._cudart", Runtime)
    slots = Slots(count=2, size=4096)
    assert slots.pinned
    slots.close()
    slots.close()
    assert [what for what, _ in calls] == ["lock", "unlock"]
    assert len({address for _, address in calls}) == 1


ANONYMOUS = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {tests!r})
import loading_files as files_of
stream = files_of.stream
torch.set_num_threads(1)
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
files = {files!r}
for name, tensor in stream(files):
    torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
targets, most, before = {{}}, 0, None
for name, tensor in stream(files):
    key = (tuple(tensor.shape), tensor.dtype)
    if key not in targets:
        targets[key] = torch.zeros(tensor.shape, dtype=tensor.dtype)
    if before is None:
        before = anonymous()
    targets[key].copy_(tensor)
    most = max(most, anonymous())
print(most - before, sum(t.nbytes for t in targets.values()) // 1024)
"""


def test_memory_besides_the_parameters_is_bounded(disk: Path) -> None:
    files, tensors = files_of.write(disk, shards=4, layers=4, experts=16)
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert total > 80 << 20
    code = ANONYMOUS.format(tests=str(Path(__file__).parent), files=files)
    root = Path(sys.modules["vllm.sm12x"].__path__[0]).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    # Older releases log to stdout as they are imported.
    grown, parameters = map(int, done.stdout.split()[-2:])
    assert grown - parameters <= 16 << 10  # KiB: slots of 8 MiB, and what threads need


Broken = Callable[[Path], object]
BROKEN: dict[str, Broken] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "half a header": lambda path: os.truncate(path, 60),
    "no JSON": lambda path: path.write_bytes(path.read_bytes().replace(b'{"', b"{{", 1)),
    "offsets beyond the end": lambda path: path.write_bytes(
        path.read_bytes().replace(b"data_offsets", b"data_offsetz", 1)
    ),
    "a folder": lambda path: path.rename(f"{path}.old").parent.joinpath(path.name).mkdir(),
    "a header of a terabyte": lambda path: path.write_bytes(
        (1 << 40).to_bytes(8, "little") + path.read_bytes()[8:]
    ),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("way", ["stream", "window"])
def test_a_broken_file_gives_the_librarys_own_error_after_what_came_before_it(
    checkpoint: tuple[list[str], Tensors], how: str, way: str
) -> None:
    from safetensors import safe_open

    files, expected = checkpoint
    BROKEN[how](Path(files[1]))
    with pytest.raises(Exception) as theirs:
        safe_open(files[1], framework="pt").__enter__()
    found = {}
    load = {"stream": stream, "window": files_of.window}[way]
    with pytest.raises(theirs.type) as ours:
        for name, tensor in load(files):
            found[name] = copy(tensor)
    assert str(ours.value) == str(theirs.value)
    first = files_of.some_tensors(0)
    assert_same(found, {name: expected[name] for name in first})
    assert sm12x_threads() == []
