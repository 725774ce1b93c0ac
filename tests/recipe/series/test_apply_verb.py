# SPDX-License-Identifier: Apache-2.0
"""`apply`: the patched tree as a repository that a person can work in."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.ground import scratch
from tests.recipe import small
from tests.recipe.repo import Repository
from tests.recipe.world import World


@pytest.fixture
def two(world: World) -> World:
    """A world with two patches, the second on top of the first."""
    first = world.upstream.patch({"vllm/envs.py": b"1\n"}, "First", Topic="one")
    second = world.upstream.patch({"vllm/envs.py": b"2\n"}, "Second", Topic="two")
    world.add_patch("one.patch", first)
    world.add_patch("two.patch", second)
    world.add_overlay("vllm/ours.py", b"ours = 1\n")
    return world


def test_one_commit_a_patch_on_the_tagged_base(two: World, tmp_path: Path) -> None:
    tree = tmp_path / "tree"

    document = two.good("apply", "--tree", str(tree), "--json").document

    made = Repository(root=tree)
    subjects = made.text("log", "--format=%s", "--reverse", "base-v9.1.0..HEAD").splitlines()
    assert subjects == ["First", "Second", "Lay the overlay"]
    ids = made.text("log", "--format=%H", "--reverse", "base-v9.1.0..HEAD").splitlines()
    assert [row["commit"] for row in document["commits"]] == ids
    assert made.text("symbolic-ref", "--short", "HEAD") == "sm12x"
    assert not made.text("status", "--porcelain", "--ignored")
    made.git("fsck", "--strict")
    for name, content in small.TREE.items():
        if name != "vllm/envs.py":
            assert (tree / name).read_bytes() == content
    assert (tree / "tools" / "build.sh").stat().st_mode & 0o111


@pytest.mark.parametrize("name", ["vllm/two.patch", "patches/vllm/two.patch", "two"])
def test_until_stops_before_the_patch(two: World, tmp_path: Path, name: str) -> None:
    tree = tmp_path / "tree"
    two.good("apply", "--tree", str(tree), "--until", name)
    subjects = Repository(root=tree).text("log", "--format=%s", "base-v9.1.0..HEAD")
    assert subjects == "First"


def test_until_the_first_patch_is_upstream_itself(two: World, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    two.good("apply", "--tree", str(tree), "--until", "one")
    assert not Repository(root=tree).text("log", "--format=%s", "base-v9.1.0..HEAD")


def test_until_a_patch_that_is_not_there(two: World, tmp_path: Path) -> None:
    done = two.run("apply", "--tree", str(tmp_path / "tree"), "--until", "three")
    assert done.status == 2
    assert done.next.startswith("python build.py plan")
    assert not (tmp_path / "tree").exists()


def test_an_existing_empty_folder_is_used(two: World, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    two.good("apply", "--tree", str(tree))
    assert (tree / "vllm" / "ours.py").exists()


def test_a_folder_with_work_in_it_is_refused_and_kept(two: World, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "work.txt").write_text("mine", encoding="utf-8")

    done = two.run("apply", "--tree", str(tree))

    assert done.status == 2
    assert "--tree" in done.next
    assert [path.name for path in tree.iterdir()] == ["work.txt"]
    assert not list(tmp_path.glob(".tree*"))


def test_what_a_killed_apply_left_is_replaced(two: World, tmp_path: Path) -> None:
    leftover = tmp_path / scratch.half_written(tmp_path / "tree") / "vllm"
    leftover.mkdir(parents=True)
    (leftover / "half.py").write_text("half", encoding="utf-8")

    two.good("apply", "--tree", str(tmp_path / "tree"))

    assert not (tmp_path / "tree" / "vllm" / "half.py").exists()
    assert not leftover.parent.exists()


def test_a_patch_that_does_not_apply_writes_no_tree(two: World, tmp_path: Path) -> None:
    two.upstream.commit({"vllm/model.py": b"drifted\n"})
    content = two.upstream.patch({"vllm/model.py": b"ours\n"}, Topic="three")
    two.add_patch("three.patch", content)
    tree = tmp_path / "tree"

    done = two.run("apply", "--tree", str(tree))

    assert done.status == 4
    assert "patches/vllm/three.patch doesn't apply: patch failed: vllm/model.py:1" in done.err
    # What the message says to type works, and shows the tree the patch must be mended against.
    command = done.next.partition(",")[0].replace("DIR", str(tree)).split()
    assert command[:2] == ["python", "build.py"]
    two.good(*command[2:])
    assert Repository(root=tree).text("log", "-1", "--format=%s") == "Second"
