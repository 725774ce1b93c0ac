# SPDX-License-Identifier: Apache-2.0
"""A disk without room: exit code 8, what to do, and nothing half-written that is used later."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.recipe import small
from tests.recipe.world import MACHINE, World

Mount = Callable[[str, int], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a file system of so many MiB at a folder of the test's own."""
    mounted: list[Path] = []

    def add(name: str, mib: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
        done = subprocess.run(["mount", *options], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("this user may not mount a small disk")
        mounted.append(folder)
        return folder

    yield add
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take the last byte of a disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 65536)
        except OSError:
            pass
    return filler


def test_a_cache_that_is_too_small_is_named_before_anything_is_fetched(
    world: World, mount: Mount
) -> None:
    tight = replace(world, cache=mount("disk", 64) / "cache")

    done = tight.build()

    assert done.status == 8
    assert f"no room on the disk of {tight.cache}" in done.err
    assert "SM12X_CACHE=DIR" in done.next
    assert world.index.asked == []
    assert tight.refs() == ""
    assert world.build().status == 0


def test_a_disk_that_fills_during_a_download_keeps_what_came(world: World, mount: Mount) -> None:
    content = small.make_wheel({"vllm/big.bin": os.urandom(3 << 20)})
    world.index.add("vllm", small.WHEELS[MACHINE], content)
    pins = small.bases_toml(world.sdist, {**world.wheels, MACHINE: content})
    (world.root / "bases.toml").write_text(pins, encoding="utf-8")
    tight = replace(world, cache=mount("disk", 500) / "cache")
    tight.good("plan")
    filler = fill(tight.cache.parent)
    os.truncate(filler, filler.stat().st_size - (1 << 20))

    done = tight.build()

    assert done.status == 8, done.err
    assert "could not be written" in done.err
    assert "free some space" in done.next
    (part,) = tight.cache.glob("downloads/*/*.whl*")
    assert part.suffix == ".part"
    assert part.stat().st_size > 0
    filler.unlink()
    assert tight.build().status == 0
    asked = world.index.fetched(small.WHEELS[MACHINE])
    assert asked[-1] is not None
    assert asked[-1].startswith("bytes=")


def test_a_store_without_room_for_a_patch_says_so(world: World, mount: Mount) -> None:
    tight = replace(world, cache=mount("disk", 500) / "cache")
    tight.good("plan")
    refs = tight.refs()
    world.add_overlay("vllm/new.py", os.urandom(1 << 20))
    filler = fill(tight.cache.parent)

    done = tight.run("plan")

    assert done.status == 8, done.err
    assert "no room on the disk" in done.err
    assert done.next
    filler.unlink()
    assert tight.refs() == refs
    tight.good("plan")


def test_an_output_folder_without_room_gets_no_half_wheel(world: World, mount: Mount) -> None:
    disk = mount("disk", 16)

    done = world.run("build", "--no-test", "--out", str(disk / "dist"))

    assert done.status == 8, done.err
    assert "no room on the disk" in done.err
    assert str(disk) in done.err
    assert "--out" in done.next
    assert [path.name for path in (disk / "dist").iterdir()] == []
    assert world.build().status == 0


def test_a_cache_that_cannot_be_made_is_named(world: World) -> None:
    blocked = replace(world, cache=world.root / "bases.toml" / "cache")
    done = blocked.run("plan")
    assert done.status == 8, done.err
    assert "SM12X_CACHE=DIR" in done.next
