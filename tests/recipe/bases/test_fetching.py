# SPDX-License-Identifier: Apache-2.0
"""Files from the package index: their hash decides, and a cut connection goes on where it ended."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.recipe import small
from tests.recipe.world import World


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def in_downloads(world: World) -> list[str]:
    folder = world.cache / "downloads"
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_the_index_page_and_the_file_are_each_asked_once(world: World) -> None:
    world.good("plan")
    world.good("plan")
    assert world.index.fetched(small.SDIST) == [None]
    assert world.sdist_path.read_bytes() == world.sdist


def test_another_file_under_the_name_is_refused(world: World) -> None:
    world.index.sends[small.SDIST] = b"not the pinned archive"

    done = world.run("plan")

    assert done.status == 3
    assert f"expected sha256 {small.sha256(world.sdist)}" in done.err
    assert f"found    sha256 {small.sha256(b'not the pinned archive')}" in done.err
    assert "the same command again" in done.next
    assert not world.sdist_path.exists()
    (bad,) = world.sdist_path.parent.iterdir()
    assert bad.suffix == ".bad"
    assert world.refs() == ""
    del world.index.sends[small.SDIST]
    world.good("plan")


def test_a_cut_connection_goes_on_where_it_ended(world: World) -> None:
    world.index.cuts[small.SDIST] = [300, 200]

    world.good("plan")

    assert world.index.fetched(small.SDIST) == [None, "bytes=300-", "bytes=500-"]
    assert in_downloads(world) == [small.SDIST]


def test_a_run_that_gave_up_is_taken_up_by_the_next(world: World) -> None:
    world.index.cuts[small.SDIST] = [300, 10, 10]

    done = world.run("plan")

    assert done.status == 3
    assert "goes on where it stopped" in done.next
    assert in_downloads(world) == [small.SDIST + ".part"]
    assert not world.refs()
    world.good("plan")
    assert world.index.fetched(small.SDIST)[-1] == "bytes=320-"
    assert in_downloads(world) == [small.SDIST]


def test_a_server_without_ranges_is_asked_from_the_start(world: World) -> None:
    world.index.ranges = False
    world.index.cuts[small.SDIST] = [300]

    world.good("plan")

    assert world.index.fetched(small.SDIST) == [None, "bytes=300-"]
    assert world.sdist_path.read_bytes() == world.sdist


def test_a_part_that_is_whole_already_is_used(world: World) -> None:
    part = world.sdist_path.with_name(small.SDIST + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(world.sdist)

    world.good("plan")

    assert in_downloads(world) == [small.SDIST]


def test_a_part_of_something_else_is_found_out_and_then_fetched_anew(world: World) -> None:
    part = world.sdist_path.with_name(small.SDIST + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)

    assert world.run("plan").status == 3
    world.good("plan")


def test_a_flipped_byte_in_the_cache_is_found_at_the_next_use(world: World) -> None:
    world.good("plan")
    damaged = bytearray(world.sdist)
    damaged[len(damaged) // 2] ^= 1
    world.sdist_path.write_bytes(damaged)

    done = world.run("plan")

    assert done.status == 3
    assert small.sha256(world.sdist) in done.err
    assert small.sha256(bytes(damaged)) in done.err
    world.good("plan")
    assert world.sdist_path.read_bytes() == world.sdist
    assert world.index.fetched(small.SDIST) == [None, None]


def test_offline_without_the_file_says_so(world: World) -> None:
    done = world.run("plan", "--offline")

    assert done.status == 3
    assert str(world.sdist_path) in done.err
    assert done.next == "run once without --offline, or put the file there"
    assert world.index.asked == []
    # The second half of that advice.
    world.sdist_path.parent.mkdir(parents=True, exist_ok=True)
    world.sdist_path.write_bytes(world.sdist)
    world.good("plan", "--offline")
    assert world.index.asked == []


def test_an_unreachable_index_is_named(world: World) -> None:
    env = {"PIP_INDEX_URL": f"http://127.0.0.1:{closed_port()}/simple"}

    done = world.run("plan", env=env)

    assert done.status == 3
    assert "the package index could not be asked for vllm" in done.err
    assert "--offline" in done.next
    assert in_downloads(world) == []
    world.good("plan")


def test_a_file_the_index_lacks_is_named_with_what_it_has(world: World) -> None:
    del world.index.files["vllm"][small.SDIST]

    done = world.run("plan")

    assert done.status == 3
    assert f"the package index has no {small.SDIST}" in done.err
    assert small.WHEELS["x86_64"] in done.err
    assert done.next.startswith("python build.py bases add v9.1.0")


def test_a_wheel_is_fetched_for_the_platform_that_was_asked(world: World) -> None:
    world.run("build", "--no-test", "--platform", "aarch64", "--out", str(world.out))
    assert world.index.fetched(small.WHEELS["aarch64"]) == [None]
    assert world.index.fetched(small.WHEELS["x86_64"]) == []


def test_two_runs_at_once_fetch_a_file_once(world: World) -> None:
    runs = [world.start("plan") for _ in range(3)]
    errors = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], errors
    assert world.index.fetched(small.SDIST) == [None]
    assert Path(world.sdist_path).read_bytes() == world.sdist
