# SPDX-License-Identifier: Apache-2.0
"""Checkpoints for the tests of loading, and the folders of real disks that they need."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.sm12x.loading.facts.filesystem import Kind, survey
from vllm.sm12x.loading.files import pages
from vllm.sm12x.loading.files.checkpoint import Checkpoint
from vllm.sm12x.loading.stream.streamed import Sizes, streamed_tensors
from vllm.sm12x.loading.window.fill import Shape, Window
from vllm.sm12x.loading.window.mapped import mapped_tensors

SHAPE = Shape(ahead=64 << 20, block=1 << 20, threads=2, by_advice=True)
Tensors = dict[str, torch.Tensor]


@contextmanager
def disk_folder(*places: Path) -> Iterator[Path]:
    """A folder on a local disk, where pages can be evicted and read anew."""
    for place in (*places, Path("/var/tmp"), Path.cwd()):
        if os.access(place, os.W_OK) and survey([place]).filesystems[0].kind is Kind.LOCAL:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                yield Path(folder)
            return
    pytest.skip("needs a writable folder on ext4, xfs, btrfs or zfs")


def some_tensors(shard: int, layers: int = 2, experts: int = 4) -> Tensors:
    """Tensors as a checkpoint has them: experts, norms, a scalar, an empty one, several dtypes."""
    rng = torch.Generator().manual_seed(shard)

    def noise(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(*shape, generator=rng).to(dtype)

    found: Tensors = {}
    for layer in range(shard * layers, (shard + 1) * layers):
        stem = f"model.layers.{layer}"
        for expert in range(experts):
            found[f"{stem}.experts.{expert}.down_proj.weight"] = noise(256, 512)
            found[f"{stem}.experts.{expert}.weight_scale"] = noise(2, 4, dtype=torch.float32)
        found[f"{stem}.norm.weight"] = noise(777)
        found[f"{stem}.o_proj.weight"] = noise(128, 8192)
        found[f"{stem}.q_proj.weight"] = noise(512, 512).to(torch.float8_e4m3fn)
    found[f"scalar.{shard}"] = torch.tensor(3.5 + shard)
    found[f"empty.{shard}"] = torch.empty(0, 3)
    found[f"mask.{shard}"] = torch.tensor([True, False, True])
    return found


def write(folder: Path, shards: int = 2, **sizes: int) -> tuple[list[str], Tensors]:
    """Write a checkpoint that the disk has and the page cache hasn't."""
    from safetensors.torch import save_file

    files: list[str] = []
    whole: Tensors = {}
    for shard in range(shards):
        tensors = some_tensors(shard, **sizes)
        path = folder / f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_file(tensors, path)
        files.append(str(path))
        whole |= tensors
    evict(files)
    return files, whole


def evict(files: list[str]) -> None:
    for file in files:
        with Path(file).open("rb") as opened:
            os.fsync(opened.fileno())
    pages.give_back_files(files)


def resident(files: list[str]) -> int:
    """Bytes of files in the page cache."""
    total = 0
    for file in files:
        with Path(file).open("rb", buffering=0) as opened:
            found = pages.count_resident(opened.fileno(), 0, Path(file).stat().st_size)
        assert found is not None
        total += found * pages.PAGE
    return total


def bits(tensor: torch.Tensor) -> Any:
    return tensor.contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else tensor


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert torch.equal(bits(found[name]), bits(tensor)), name


def stream(files: list[str], **options: Any) -> Iterator[tuple[str, Any]]:
    """Stream a checkpoint through 8 MiB of slots."""
    loaded = Checkpoint(files, drop=True, exact=True, **options)
    loaded.hold_all()
    return streamed_tensors(loaded, Sizes(slots=8 << 20, slot=1 << 20, threads=3), files)


def window(
    files: list[str], shape: Shape = SHAPE, *, drop: bool = False, **options: Any
) -> Iterator[tuple[str, Any]]:
    """Load a checkpoint with a window."""
    loaded = Checkpoint(files, drop=drop)
    loaded.hold_all()
    return mapped_tensors(loaded, Window(loaded, shape, **options), files)


def order_of_the_library(files: list[str]) -> list[str]:
    from safetensors import safe_open

    names = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            names += list(opened.keys())
    return names


def sm12x_threads() -> list[str]:
    import threading

    return [t.name for t in threading.enumerate() if t.name.startswith("sm12x")]
