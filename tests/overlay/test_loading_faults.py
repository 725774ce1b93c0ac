# SPDX-License-Identifier: Apache-2.0
"""What becomes of a load when a disk fails, a file changes, or a folder can't be looked into."""

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import failing_disk
import loading_files as files_of
import pytest
import torch
from loading_files import Tensors, assert_same, evict, sm12x_threads, stream, window
from vllm.sm12x.loading.facts import filesystem
from vllm.sm12x.loading.gather import gather
from vllm.sm12x.loading.stream.slots import Slots

Load = Callable[[list[str]], Iterator[tuple[str, Any]]]
LOADS: dict[str, Load] = {"stream": stream, "window": window}


def lazily(files: list[str]) -> Iterator[tuple[str, Any]]:
    """What upstream's iterator does without a strategy."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with files_of.disk_folder(tmp_path) as folder:
        yield folder


@pytest.fixture
def half_lost(disk: Path) -> Iterator[tuple[list[str], Tensors, int]]:
    """A checkpoint on a disk that can't read the second half of one shard, and which shard."""
    with failing_disk.mounted(disk) as (point, image):
        files, tensors = files_of.write(point, shards=3, layers=4)
        lost = failing_disk.lose(point, image, files)
        evict(files)
        yield files, tensors, lost


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[Slots]:
    """The slots that have been closed."""
    slots: list[Slots] = []
    close = Slots.close

    def note(self: Slots) -> None:
        slots.append(self)
        close(self)

    monkeypatch.setattr(Slots, "close", note)
    return slots


def take(weights: Iterator[tuple[str, Any]], found: Tensors) -> None:
    for name, tensor in weights:
        found[name] = torch.full(tensor.shape, 1, dtype=tensor.dtype).copy_(tensor)


def test_a_disk_that_cannot_read_ends_a_stream_with_an_error_and_nothing_is_left(
    half_lost: tuple[list[str], Tensors, int], closed: list[Slots]
) -> None:
    files, tensors, lost = half_lost
    with (
        Path(files[lost]).open("rb", buffering=0) as opened,
        pytest.raises(OSError, match="output"),
    ):
        while opened.read(1 << 20):
            pass
    before = set(Path("/proc/self/fd").iterdir())
    found: Tensors = {}
    with pytest.raises(OSError, match="Input/output error"):
        take(stream(files), found)
    gc.collect()
    assert sm12x_threads() == []
    assert len(closed) == 1 and closed[0]._tensors == []
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1
    # What came before it is right.
    assert len(found) > 10 * lost
    assert_same(found, {name: tensors[name] for name in found})


WITH_A_PROCESS_OF_ITS_OWN = """
import sys
sys.path.insert(0, {tests!r})
import test_loading_faults as faults
found = {{}}
load = getattr(faults, {load!r})
try:
    faults.take(load({files!r}), found)
finally:
    print(len(found), flush=True)
"""


def load_elsewhere(load: str, files: list[str]) -> "subprocess.CompletedProcess[str]":
    code = WITH_A_PROCESS_OF_ITS_OWN.format(
        tests=str(Path(__file__).parent), load=load, files=files
    )
    root = Path(sys.modules["vllm.sm12x"].__path__[0]).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


@pytest.mark.parametrize("load", ["lazily", "window"])
def test_a_window_ends_as_a_lazy_load_does_where_the_disk_cannot_read(
    half_lost: tuple[list[str], Tensors, int], load: str
) -> None:
    files, _, lost = half_lost
    done = load_elsewhere(load, files)
    assert done.returncode == -signal.SIGBUS, done.stderr
    # Whole shards before it are none the worse.
    assert load_elsewhere(load, files[:lost]).returncode == 0


LIES: dict[str, Callable[[dict[str, Any], int], None]] = {
    "an end beyond the file": lambda last, size: last.update(
        data_offsets=[last["data_offsets"][0], last["data_offsets"][1] + (1 << 40)]
    ),
    "an end before its start": lambda last, size: last.update(
        data_offsets=last["data_offsets"][::-1]
    ),
    "bytes of another tensor": lambda last, size: last.update(
        data_offsets=[0, last["data_offsets"][1] - last["data_offsets"][0]]
    ),
    "a hole": lambda last, size: last.update(
        data_offsets=[offset + 64 for offset in last["data_offsets"]]
    ),
    "a negative start": lambda last, size: last.update(data_offsets=[-64, last["data_offsets"][1]]),
    "a shape that is too large": lambda last, size: last.update(
        shape=[2 * length for length in last["shape"]]
    ),
    "a shape whose size overflows": lambda last, size: last.update(shape=[1 << 62, 1 << 62]),
    "a dtype of another size": lambda last, size: last.update(dtype="F64"),
    "a dtype that nobody knows": lambda last, size: last.update(dtype="F9"),
    "offsets that are no pair": lambda last, size: last.update(data_offsets=[0]),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("way", LOADS)
def test_a_header_that_lies_is_refused_in_the_librarys_words(
    disk: Path, lie: str, way: str
) -> None:
    files, expected = files_of.write(disk)
    path = Path(files[1])
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    last = max(header, key=lambda name: header[name]["data_offsets"][1])
    LIES[lie](header[last], len(content) - 8 - length)
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + content[8 + length :])
    with pytest.raises(Exception) as theirs:
        take(lazily(files), {})
    found: Tensors = {}
    with pytest.raises(theirs.type) as ours:
        take(LOADS[way](files), found)
    assert str(ours.value) == str(theirs.value)
    assert_same(found, {name: expected[name] for name in files_of.some_tensors(0)})
    assert sm12x_threads() == []


@pytest.mark.parametrize("way", LOADS)
def test_a_file_that_is_replaced_is_read_as_it_was(disk: Path, way: str) -> None:
    files, expected = files_of.write(disk, shards=3)
    other = disk / "other"
    other.mkdir()
    others, _ = files_of.write(other, shards=3, layers=1)
    found: Tensors = {}
    for number, (name, tensor) in enumerate(LOADS[way](files)):
        found[name] = tensor.clone()
        if number == 3:
            for old, new in zip(files, others, strict=True):
                Path(new).replace(old)
    assert_same(found, expected)
    assert sm12x_threads() == []


@pytest.mark.parametrize("way", LOADS)
def test_shards_of_two_file_systems_are_one_checkpoint(
    disk: Path, tmp_path: Path, way: str
) -> None:
    with failing_disk.mounted(disk) as (point, _):
        files, expected = files_of.write(disk, shards=3)
        moved = point / "blob"
        moved.write_bytes(Path(files[1]).read_bytes())
        Path(files[1]).unlink()
        Path(files[1]).symlink_to(moved)
        evict(files)
        facts = gather(files, None)
        assert facts.total_bytes == sum(Path(file).stat().st_size for file in files)
        assert sum(size for _, size in facts.bytes_on) == facts.total_bytes
        found: Tensors = {}
        take(LOADS[way](files), found)
        # Or the file system couldn't be taken down.
        gc.collect()
    assert_same(found, expected)
    assert filesystem.survey([disk]).filesystems


@pytest.mark.parametrize("way", LOADS)
def test_shards_without_a_byte_or_a_tensor(disk: Path, way: str) -> None:
    """A shard may hold nothing at all; one of zero bytes is no shard."""
    from safetensors.torch import save_file

    files, expected = files_of.write(disk)
    nothing = str(disk / "model-00000-of-00002.safetensors")
    save_file({}, nothing)
    save_file({"none": torch.empty(0)}, str(disk / "none.safetensors"))
    found: Tensors = {}
    take(LOADS[way]([nothing, *files, str(disk / "none.safetensors")]), found)
    assert_same(found, expected | {"none": torch.empty(0)})
    Path(nothing).write_bytes(b"")
    with pytest.raises(Exception) as theirs:
        take(lazily([nothing]), {})
    with pytest.raises(theirs.type) as ours:
        take(LOADS[way]([nothing, *files]), {})
    assert str(ours.value) == str(theirs.value)
    assert sm12x_threads() == []
