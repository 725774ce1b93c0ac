# SPDX-License-Identifier: Apache-2.0
"""The real safetensors iterator asks the policy, and only for an automatic strategy."""

import os
import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

SHM = Path("/dev/shm")


@pytest.fixture
def weight_utils(base: Version, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the wheel, with a knob that makes even a small checkpoint count."""
    from vllm.model_executor.model_loader import weight_utils

    monkeypatch.delenv("VLLM_SM12X_PREFETCH", raising=False)
    monkeypatch.setenv("VLLM_SM12X_PREFETCH_MIN_GIB", "0")
    return weight_utils


@pytest.fixture
def prefetched(weight_utils: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files of every prefetch that the iterator starts; none is really started."""
    started: list[list[str]] = []
    monkeypatch.setattr(
        weight_utils, "_prefetch_all_checkpoints", lambda files, **_: started.append(files)
    )
    return started


def write_checkpoint(folder: Path) -> list[str]:
    import torch
    from safetensors.torch import save_file

    files = []
    for shard in range(3):
        tensors = {f"layer.{shard}.{n}": torch.full((64, 8), shard + n / 8) for n in range(4)}
        path = folder / f"model-{shard + 1:05}-of-00003.safetensors"
        save_file(tensors, path)
        files.append(str(path))
    return files


@pytest.fixture
def local_files(tmp_path: Path) -> Iterator[list[str]]:
    """A checkpoint on a local POSIX file system, wherever this machine has one to write to."""
    from vllm.sm12x.loading.filesystem import Kind, survey

    for place in (tmp_path, Path("/var/tmp"), Path.cwd()):
        if os.access(place, os.W_OK) and survey([place]).filesystems[0].kind is Kind.LOCAL:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                yield write_checkpoint(Path(folder))
            return
    pytest.skip("needs a writable folder on ext4, xfs, btrfs or zfs")


@pytest.fixture
def tmpfs_files() -> Iterator[list[str]]:
    from vllm.sm12x.loading.filesystem import Kind, survey

    if not os.access(SHM, os.W_OK) or survey([SHM]).filesystems[0].kind is not Kind.MEMORY:
        pytest.skip("needs a writable tmpfs on /dev/shm")
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield write_checkpoint(Path(folder))


def load(weight_utils: Any, files: list[str], strategy: str | None = None) -> dict[str, Any]:
    return dict(weight_utils.safetensors_weights_iterator(files, False, strategy))


def test_a_checkpoint_on_a_local_disk_is_prefetched(
    weight_utils: Any, local_files: list[str], prefetched: list[list[str]]
) -> None:
    load(weight_utils, local_files)
    assert prefetched == [local_files]


def test_a_checkpoint_below_the_default_size_is_not(
    weight_utils: Any,
    local_files: list[str],
    prefetched: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_SM12X_PREFETCH_MIN_GIB")
    load(weight_utils, local_files)
    assert prefetched == []


def test_a_checkpoint_in_memory_is_not(
    weight_utils: Any, tmpfs_files: list[str], prefetched: list[list[str]]
) -> None:
    load(weight_utils, tmpfs_files)
    assert prefetched == []


def test_a_shard_that_a_link_takes_elsewhere_keeps_all_from_being_prefetched(
    weight_utils: Any,
    local_files: list[str],
    tmpfs_files: list[str],
    prefetched: list[list[str]],
) -> None:
    last = Path(local_files[-1])
    last.unlink()
    last.symlink_to(tmpfs_files[-1])
    load(weight_utils, local_files)
    assert prefetched == []


@pytest.mark.parametrize(("strategy", "count"), [("lazy", 0), ("eager", 0), ("prefetch", 1)])
@pytest.mark.parametrize("knob", ["auto", "0", "1"])
def test_an_explicit_strategy_is_obeyed_whatever_the_knob_says(
    weight_utils: Any,
    local_files: list[str],
    prefetched: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    count: int,
    knob: str,
) -> None:
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", knob)
    load(weight_utils, local_files, strategy)
    assert len(prefetched) == count


def test_the_knob_turns_automatic_prefetch_off(
    weight_utils: Any,
    local_files: list[str],
    prefetched: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", "0")
    load(weight_utils, local_files)
    assert prefetched == []


def test_the_knob_turns_automatic_prefetch_on(
    weight_utils: Any,
    tmpfs_files: list[str],
    prefetched: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", "1")
    load(weight_utils, tmpfs_files)
    assert prefetched == [tmpfs_files]


@pytest.mark.parametrize(("knob", "count"), [("auto", 1), ("0", 0)])
def test_upstreams_own_choice_on_a_network_file_system_stands_unless_forbidden(
    weight_utils: Any,
    tmpfs_files: list[str],
    prefetched: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    knob: str,
    count: int,
) -> None:
    monkeypatch.setattr(weight_utils, "_get_fs_type", lambda _: "nfs4")
    monkeypatch.delenv("VLLM_SM12X_PREFETCH_MIN_GIB")
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", knob)
    load(weight_utils, tmpfs_files)
    assert len(prefetched) == count


@pytest.mark.parametrize(("ranks", "count"), [(1, 1), (4, 0)])
def test_size_is_counted_per_rank_of_the_process_group(
    weight_utils: Any,
    local_files: list[str],
    prefetched: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    count: int,
) -> None:
    import torch.distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    half = sum(Path(file).stat().st_size for file in local_files) / 2 / 1024**3
    monkeypatch.setenv("VLLM_SM12X_PREFETCH_MIN_GIB", f"{half:.12f}")
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        load(weight_utils, local_files)
    finally:
        torch.distributed.destroy_process_group()
    assert len(prefetched) == count


def test_the_weights_are_the_same_with_and_without_a_real_prefetch(
    weight_utils: Any, local_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    read: queue.Queue[str] = queue.Queue()
    real = weight_utils._prefetch_checkpoint

    def prefetch_and_tell(file: str, *options: Any) -> None:
        real(file, *options)
        read.put(file)

    monkeypatch.setattr(weight_utils, "_prefetch_checkpoint", prefetch_and_tell)
    prefetched = load(weight_utils, local_files)
    # It reads in the background; the files must not go before it is done.
    assert sorted(read.get(timeout=60) for _ in local_files) == local_files
    lazy = load(weight_utils, local_files, "lazy")
    assert list(prefetched) == list(lazy)
    assert len(lazy) == 12
    assert all(torch.equal(prefetched[name], lazy[name]) for name in lazy)
