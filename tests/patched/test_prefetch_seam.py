# SPDX-License-Identifier: Apache-2.0
"""The real safetensors iterators ask the policy, and load as it says."""

import os
import queue
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

SHM = Path("/dev/shm")
WAYS = ("lazy", "prefetch", "window", "stream")


@pytest.fixture
def weight_utils(base: Version, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the wheel, with a knob that makes even a small checkpoint count."""
    from vllm.model_executor.model_loader import weight_utils

    monkeypatch.delenv("VLLM_SM12X_PREFETCH", raising=False)
    monkeypatch.delenv("VLLM_SM12X_LOADING", raising=False)
    monkeypatch.setenv("VLLM_SM12X_PREFETCH_MIN_GIB", "0")
    return weight_utils


@pytest.fixture
def ways(weight_utils: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways that are gone, in turn."""
    from vllm.sm12x.loading import seam

    taken: list[str] = []
    weights = seam.Load._weights

    def note(self: Any, decision: Any) -> Any:
        taken.append(decision.way.value)
        return weights(self, decision)

    monkeypatch.setattr(seam.Load, "_weights", note)
    return taken


@pytest.fixture
def prefetched(weight_utils: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that upstream's threads read, of which none is really started."""
    started: list[str] = []

    def note(files: list[str], **_: Any) -> None:
        import torch.distributed as group

        rank, world = (
            (group.get_rank(), group.get_world_size()) if group.is_initialized() else (0, 1)
        )
        started.extend(files[rank::world])

    monkeypatch.setattr(weight_utils, "_prefetch_all_checkpoints", note)
    return started


def write_checkpoint(folder: Path, shards: int = 3) -> list[str]:
    import torch
    from safetensors.torch import save_file

    files = []
    for shard in range(shards):
        tensors = {f"layer.{shard}.{n}": torch.full((64, 8), shard + n / 8) for n in range(4)}
        tensors[f"layer.{shard}.experts.{shard}.weight"] = torch.full((8,), float(shard))
        path = folder / f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file(tensors, path)
        files.append(str(path))
        with path.open("rb") as written:
            os.fsync(written.fileno())
            os.posix_fadvise(written.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return files


@pytest.fixture
def local_files(tmp_path: Path) -> Iterator[list[str]]:
    """A cold checkpoint on a local disk, wherever this machine has one to write to."""
    from vllm.sm12x.loading.facts.filesystem import Kind, survey

    for place in (tmp_path, Path("/var/tmp"), Path.cwd()):
        if os.access(place, os.W_OK) and survey([place]).filesystems[0].kind is Kind.LOCAL:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                yield write_checkpoint(Path(folder))
            return
    pytest.skip("needs a writable folder on ext4, xfs, btrfs or zfs")


@pytest.fixture
def tmpfs_files() -> Iterator[list[str]]:
    from vllm.sm12x.loading.facts.filesystem import Kind, survey

    if not os.access(SHM, os.W_OK) or survey([SHM]).filesystems[0].kind is not Kind.MEMORY:
        pytest.skip("needs a writable tmpfs on /dev/shm")
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield write_checkpoint(Path(folder))


def load(weight_utils: Any, files: list[str], strategy: str | None = None) -> dict[str, Any]:
    weights = weight_utils.safetensors_weights_iterator(files, False, strategy)
    return {name: tensor.clone() for name, tensor in weights}


def load_by_threads(weight_utils: Any, files: list[str]) -> dict[str, Any]:
    weights = weight_utils.multi_thread_safetensors_weights_iterator(files, False)
    return {name: tensor.clone() for name, tensor in weights}


def test_a_checkpoint_on_a_local_disk_is_read_ahead(
    weight_utils: Any, local_files: list[str], ways: list[str]
) -> None:
    load(weight_utils, local_files)
    assert ways == ["window"]


def test_a_checkpoint_below_the_default_size_is_not(
    weight_utils: Any, local_files: list[str], ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_SM12X_PREFETCH_MIN_GIB")
    load(weight_utils, local_files)
    assert ways == ["lazy"]


def test_a_checkpoint_in_memory_is_not(
    weight_utils: Any, tmpfs_files: list[str], ways: list[str]
) -> None:
    load(weight_utils, tmpfs_files)
    assert ways == ["lazy"]


def test_shards_behind_links_are_looked_up_where_they_are(
    weight_utils: Any, local_files: list[str], tmpfs_files: list[str], ways: list[str]
) -> None:
    for local, elsewhere in zip(local_files, tmpfs_files, strict=True):
        Path(local).unlink()
        Path(local).symlink_to(elsewhere)
    load(weight_utils, local_files)
    assert ways == ["lazy"]


def test_a_gpu_without_memory_of_its_own_is_streamed_to(
    weight_utils: Any, local_files: list[str], ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.sm12x.loading import gather
    from vllm.sm12x.loading.files import pages

    monkeypatch.setattr(gather, "weights_share_memory", lambda: True)
    for file in local_files:
        Path(file).read_bytes()
    load(weight_utils, local_files)
    assert ways == ["stream"]
    # Memory is profiled next, and what the page cache holds of it would be missing.
    assert pages.share_resident(local_files) == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("knob", ["auto", "0", "1"])
def test_a_named_strategy_is_obeyed_whatever_the_knobs_say(
    weight_utils: Any,
    local_files: list[str],
    prefetched: list[str],
    ways: list[str],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    knob: str,
) -> None:
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", knob)
    monkeypatch.setenv("VLLM_SM12X_LOADING", "window")
    load(weight_utils, local_files, way)
    assert ways == [way]
    assert prefetched == (local_files if way == "prefetch" else [])


def test_upstreams_other_strategies_are_upstreams(
    weight_utils: Any, local_files: list[str], ways: list[str]
) -> None:
    assert len(load(weight_utils, local_files, "eager")) == 15
    assert ways == []


@pytest.mark.parametrize(
    ("knob", "way"), [("0", "lazy"), ("1", "prefetch")], ids=["turned off", "turned on"]
)
def test_the_older_knob_turns_reading_ahead_on_and_off(
    weight_utils: Any,
    local_files: list[str],
    prefetched: list[str],
    ways: list[str],
    monkeypatch: pytest.MonkeyPatch,
    knob: str,
    way: str,
) -> None:
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", knob)
    load(weight_utils, local_files)
    assert ways == [way]
    assert prefetched == (local_files if way == "prefetch" else [])


@pytest.mark.parametrize("way", WAYS)
def test_every_way_can_be_named_by_a_variable(
    weight_utils: Any, local_files: list[str], ways: list[str], monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("VLLM_SM12X_LOADING", way)
    load(weight_utils, local_files)
    load_by_threads(weight_utils, local_files)
    assert ways == [way, way]


@pytest.mark.parametrize(("knob", "count"), [("auto", 3), ("0", 0)])
def test_upstreams_own_choice_on_a_network_file_system_stands_unless_forbidden(
    weight_utils: Any,
    tmpfs_files: list[str],
    prefetched: list[str],
    monkeypatch: pytest.MonkeyPatch,
    knob: str,
    count: int,
) -> None:
    monkeypatch.setattr(weight_utils, "_get_fs_type", lambda _: "nfs4")
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", knob)
    load(weight_utils, tmpfs_files)
    assert len(prefetched) == count


@pytest.mark.parametrize(("ranks", "way"), [(1, "window"), (4, "lazy")])
def test_size_is_counted_per_rank_of_the_process_group(
    weight_utils: Any,
    local_files: list[str],
    ways: list[str],
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    way: str,
) -> None:
    half = sum(Path(file).stat().st_size for file in local_files) / 2 / 1024**3
    monkeypatch.setenv("VLLM_SM12X_PREFETCH_MIN_GIB", f"{half:.12f}")
    with fake_group(rank=0, world_size=ranks):
        load(weight_utils, local_files)
    assert ways == [way]


class fake_group:
    """A process group whose other ranks say nothing."""

    def __init__(self, *, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size

    def __enter__(self) -> None:
        import torch.distributed
        from torch.testing._internal.distributed.fake_pg import FakeStore

        torch.distributed.init_process_group(
            "fake", store=FakeStore(), rank=self.rank, world_size=self.world_size
        )

    def __exit__(self, *_: object) -> None:
        import torch.distributed

        torch.distributed.destroy_process_group()


def test_a_rank_on_its_own_machine_reads_all_files_ahead(
    weight_utils: Any, tmp_path: Path, prefetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_checkpoint(tmp_path, shards=16)
    monkeypatch.setenv("VLLM_SM12X_PREFETCH", "1")
    with fake_group(rank=3, world_size=8):
        load(weight_utils, files)
    assert prefetched == files


def test_experts_of_other_ranks_are_left_out(weight_utils: Any, local_files: list[str]) -> None:
    for way in WAYS:
        weights = weight_utils.safetensors_weights_iterator(local_files, False, way, {1})
        names = [name for name, _ in weights]
        assert [name for name in names if ".experts." in name] == ["layer.1.experts.1.weight"]
        assert len(names) == 13


@pytest.mark.parametrize("way", ["prefetch", "window", "stream"])
def test_names_order_and_values_are_those_of_a_lazy_load(
    weight_utils: Any, local_files: list[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    import torch

    read: queue.Queue[str] = queue.Queue()
    real = weight_utils._prefetch_checkpoint

    def prefetch_and_tell(file: str, *options: Any) -> None:
        real(file, *options)
        read.put(file)

    monkeypatch.setattr(weight_utils, "_prefetch_checkpoint", prefetch_and_tell)
    # Out of order, and numbered so that letters alone would sort them otherwise.
    found = load(weight_utils, local_files[::-1], way)
    if way == "prefetch":
        # It reads in the background; the files must not go before it is done.
        assert sorted(read.get(timeout=60) for _ in local_files) == local_files
    lazy = load(weight_utils, local_files, "lazy")
    assert list(found) == list(lazy)
    assert len(lazy) == 15
    assert all(torch.equal(found[name], lazy[name]) for name in lazy)
    monkeypatch.setenv("VLLM_SM12X_LOADING", "lazy")
    theirs = load_by_threads(weight_utils, local_files)
    monkeypatch.setenv("VLLM_SM12X_LOADING", way)
    found = load_by_threads(weight_utils, local_files)
    assert set(found) == set(theirs)
    assert all(torch.equal(found[name], theirs[name]) for name in theirs)


def test_a_missing_file_is_upstreams_error(weight_utils: Any, local_files: list[str]) -> None:
    missing = [*local_files, str(Path(local_files[0]).parent / "model-00009.safetensors")]
    with pytest.raises(FileNotFoundError):
        load(weight_utils, missing)


def test_the_ways_can_be_named_on_the_command_line(base: Version) -> None:
    from vllm.config import load as config

    known = getattr(config, "SafetensorsLoadStrategy", None)
    if known is None:
        assert base < Version("0.24")
        assert config.LoadConfig(safetensors_load_strategy="stream").safetensors_load_strategy
        return
    assert set(get_args(known)) >= {"eager", "torchao", *WAYS}
    for way in WAYS:
        assert config.LoadConfig(safetensors_load_strategy=way).safetensors_load_strategy == way
