# SPDX-License-Identifier: Apache-2.0
"""`bisect` names the patch that makes a command fail, and says when no patch does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.recipe import small
from tests.recipe.world import Done, World

NAMES = ("one", "two", "three", "four", "five")


@pytest.fixture
def five(world: World) -> World:
    """Five patches, each of which adds a file of its name, and an overlay file."""
    for name in NAMES:
        content = world.upstream.patch({f"vllm/{name}.txt": b"here\n"}, f"Add {name}", Topic=name)
        world.add_patch(f"{name}.patch", content)
    world.add_overlay("vllm/ours.py", b"ours = 1\n")
    return world


def bisect(world: World, test: str) -> Done:
    return world.run("bisect", "--test", test, "--json")


def nothing_left(world: World) -> bool:
    return not list((world.cache / "tmp").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_the_patch_that_makes_it_fail_is_named(five: World, name: str) -> None:
    done = bisect(five, f"test ! -e vllm/{name}.txt")
    assert done.status == 0, done.err
    document = done.document
    row = {"path": f"vllm/{name}.patch", "topic": name, "subject": f"Add {name}"}
    assert (document["base"], document["result"]) == ("v9.1.0", "found")
    assert (document["patch"], document["candidates"]) == (row, [row])
    assert document["control"] == {"status": 0}
    # Base and head are known, so of five patches and the overlay at most three have to be tried.
    assert 2 < document["runs"] <= 5
    assert nothing_left(five)


def test_the_overlay_is_laid_before_the_patches_and_may_be_the_one(five: World) -> None:
    document = bisect(five, "test ! -e vllm/ours.py").document
    assert document["patch"]["path"] == "overlay"
    judged = "test ! -e vllm/three.txt || exit 1; test ! -e vllm/one.txt || test -e vllm/ours.py"
    assert bisect(five, judged).document["patch"]["path"] == "vllm/three.patch"


def test_nothing_fails(five: World) -> None:
    done = five.good("bisect", "--test", "test -e vllm/model.py", "--json")
    assert done.document["result"] == "passes"
    assert done.document["patch"] is None
    assert done.document["runs"] == 2


def test_what_fails_without_patches_is_no_patchs_doing(five: World) -> None:
    done = five.run("bisect", "--test", "echo it ran; exit 3")
    assert done.status == 7
    assert "ends with 3 on the unpatched v9.1.0" in done.err
    assert done.err.count("it ran\n") == 1
    assert "bisect" in done.next
    assert done.out == ""
    assert nothing_left(five)


def test_skips_that_leave_it_open_are_told_with_the_candidates(five: World) -> None:
    test = "test -e vllm/two.txt && test ! -e vllm/five.txt && exit 125; test ! -e vllm/five.txt"
    document = bisect(five, test).document
    assert document["result"] == "undecided"
    assert document["patch"] is None
    paths = [row["path"] for row in document["candidates"]]
    assert paths == [f"vllm/{name}.patch" for name in NAMES[1:]]


def test_a_skip_that_leaves_it_clear(five: World) -> None:
    test = "test -e vllm/one.txt && test ! -e vllm/two.txt && exit 125; test ! -e vllm/four.txt"
    document = bisect(five, test).document
    assert (document["result"], document["patch"]["topic"]) == ("found", "four")


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("exit 125", "125 (can't be judged) on the unpatched v9.1.0"),
        ("test ! -e vllm/five.txt || exit 125", "125 (can't be judged) on all of the series"),
        ("test ! -e vllm/five.txt || kill -9 $$", "128 or more (a signal) on all of the series"),
        ("test -e vllm/five.txt && exit 1; test ! -e vllm/one.txt || kill -9 $$", "128 or more"),
    ],
)
def test_a_command_that_gives_no_answer(five: World, test: str, said: str) -> None:
    done = five.run("bisect", "--test", test)
    assert done.status == 7
    assert said in done.err
    assert done.next
    assert nothing_left(five)


def test_a_command_runs_in_a_clean_tree_with_the_callers_environment(five: World) -> None:
    """It sees the base's name, not the recipe's settings for git, and nothing of another run."""
    test = (
        "test -e left && exit 0; touch left; echo drifted > vllm/model.py;"
        " test ! -e vllm/four.txt && test $SM12X_BASE = v9.1.0 && test $LC_ALL = C.UTF-8"
        ' && test -z "$GIT_DIR$GIT_WORK_TREE$GIT_CONFIG_GLOBAL"'
    )
    done = five.run("bisect", "--test", test, "--json", env={"LC_ALL": "C.UTF-8"})
    assert done.document["patch"]["topic"] == "four"


def test_one_patch_alone_needs_no_search(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": b"one\n"}))
    document = bisect(world, "grep -q 'line 40' vllm/model.py").document
    assert document["patch"]["path"] == "vllm/one.patch"
    assert document["runs"] == 2


def test_a_patch_that_does_not_apply_is_told_before_anything_runs(five: World) -> None:
    five.upstream.commit({"vllm/model.py": b"drifted\n"})
    five.add_patch("six.patch", five.upstream.patch({"vllm/model.py": b"x\n"}, Topic="six"))
    done = five.run("bisect", "--test", "echo it ran")
    assert done.status == 4
    assert "it ran\n" not in done.err


def test_ctrl_c_leaves_nothing(five: World, tmp_path: Path) -> None:
    flag = tmp_path / "running"
    before = sorted(five.root.rglob("*"))
    process = five.start("bisect", "--test", f"touch {flag}; sleep 60")
    while not flag.exists():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert nothing_left(five)
    assert sorted(five.root.rglob("*")) == before


def test_kill_9_leaves_nothing_in_the_project_and_the_next_run_clears_the_cache(
    five: World, tmp_path: Path
) -> None:
    flag = tmp_path / "running"
    before = sorted(five.root.rglob("*"))
    five.kill_when(flag.exists, "bisect", "--test", f"touch {flag}; sleep 60")
    assert sorted(five.root.rglob("*")) == before
    five.good("bisect", "--test", "true")
    assert nothing_left(five)


def test_a_folder_is_judged_as_it_is(five: World, tmp_path: Path) -> None:
    for name, content in {**small.TREE, "vllm/mine.txt": b"mine\n"}.items():
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    test = "test -e vllm/mine.txt && test ! -e vllm/two.txt"
    done = five.good("bisect", "--source", str(tmp_path / "mine"), "--test", test)
    assert "vllm/two.patch (two): Add two" in done.out
