# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed, and runs at the same time: the next good run cleans up and succeeds."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from tests.recipe import small
from tests.recipe.world import MACHINE, World

BIG = {f"vllm/data/{number}.bin": os.urandom(1 << 20) for number in range(24)}


@pytest.fixture
def large(world: World) -> World:
    """A world whose sdist and wheel take a moment to work through."""
    sdist = small.make_sdist({**small.TREE, **BIG})
    wheel = small.make_wheel(BIG)
    world.index.add("vllm", small.SDIST, sdist)
    world.index.add("vllm", small.WHEELS[MACHINE], wheel)
    wheels = {**world.wheels, MACHINE: wheel}
    pins = small.bases_toml(sdist, wheels)
    (world.root / "bases.toml").write_text(pins, encoding="utf-8")
    world.add_patch("change.patch", world.upstream.patch({"vllm/model.py": b"ours\n"}))
    return world


def command(world: World) -> list[str]:
    return ["build", "--no-test", "--out", str(world.out)]


def moments(world: World) -> dict[str, Callable[[], object]]:
    return {
        "fetching": lambda: list(world.cache.glob("downloads/*/*.part")),
        "importing": lambda: list(world.cache.glob("store.git/objects/pack/tmp_pack_*")),
        "assembling": lambda: list(world.out.glob(".vllm-sm12x.*/*.whl")),
    }


@pytest.mark.parametrize("moment", ["fetching", "importing", "assembling"])
def test_kill_9_leaves_nothing_that_the_next_run_trips_over(large: World, moment: str) -> None:
    large.kill_when(moments(large)[moment], *command(large))
    assert not list(large.out.glob("*.whl"))

    assert large.build().status == 0

    assert large.left_in_out() == []
    leftovers = [*large.cache.rglob("*.part"), *large.cache.rglob("tmp_*")]
    assert leftovers == []
    first = large.wheel().read_bytes()
    large.wheel().unlink()
    assert large.build().status == 0
    assert large.wheel().read_bytes() == first


def test_gits_own_report_of_a_killed_import_goes_too(large: World) -> None:
    """When the recipe alone is killed, git sees its input end and writes down what it did."""
    process = large.start(*command(large))
    while not list(large.cache.glob("store.git/objects/pack/tmp_pack_*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "refs/sm12x" not in large.refs()

    assert large.build().status == 0

    assert not list(large.cache.glob("store.git/fast_import_crash_*"))
    assert not list(large.cache.glob("store.git/objects/pack/tmp_*"))


def test_ctrl_c_says_that_the_next_run_goes_on(large: World) -> None:
    process = large.start(*command(large))
    while not list(large.out.glob(".vllm-sm12x.*/*.whl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()

    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert large.left_in_out() == []
    assert large.build().status == 0


@contextmanager
def folder_in_use(folder: Path) -> Iterator[None]:
    """As a run with another cache holds it."""
    folder.mkdir()
    number = os.open(folder, os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_EX)
    yield
    os.close(number)


@pytest.mark.parametrize("lock", ["out", "store"])
def test_a_run_that_finds_another_says_so_and_waits(world: World, lock: str) -> None:
    path = {"out": world.out, "store": world.cache / "locks" / "store.lock"}[lock]
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path) if lock == "store" else folder_in_use(path):
        process = world.start(*command(world))
        assert process.stderr is not None
        said = ""
        while "another run is using" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert str(path) in said
        assert process.poll() is None
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert Path(world.wheel()).exists()
