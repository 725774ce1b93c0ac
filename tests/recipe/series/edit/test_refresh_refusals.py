# SPDX-License-Identifier: Apache-2.0
"""A tree that `refresh` can't read as the series: it says why and what to type, and writes nothing.

One world serves all: nothing in it may change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.recipe.releases import TAGS, add_releases, amend, copy, refresh, tree, written
from tests.recipe.repo import Repository, message
from tests.recipe.server import serve
from tests.recipe.world import World, make_world


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The world, and a tree of its newest release to copy."""

    world: World
    made: Repository


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[Shared]:
    with serve() as index:
        world = make_world(tmp_path_factory.mktemp("refused"), index, code)
        add_releases(world)
        patches = world.root / "patches" / "vllm"
        for name in ("one", "two", "three"):
            path = patches / f"{name}.patch"
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace("Change it", f"Do {name}"), encoding="utf-8")
        # A topic that the newest release has.
        content = world.upstream.patch(
            {"vllm/old.txt": b"old\n"}, Topic="old", Bases="<9.3", Applied_Upstream="9.3"
        )
        world.add_patch("old.patch", content)
        yield Shared(world=world, made=tree(world))


def commit(text: str, files: dict[str, bytes | None]) -> Callable[[Repository], object]:
    return lambda made: made.commit(files, text)


def on_top(subject: str = "Do new", **trailers: str) -> Callable[[Repository], object]:
    files: dict[str, bytes | None] = {"vllm/new.txt": b"new\n"}
    return commit(message(subject, **{"Topic": "new", **trailers}), files)


def fixup_of_the_overlay(made: Repository) -> None:
    made.write({"vllm/ours.py": b"ours = 2\n"})
    made.git("commit", "--quiet", "--all", "--amend", "--no-edit")


def new_file_in_the_overlay(made: Repository) -> None:
    made.write({"vllm/mine.py": b"mine\n"})
    made.git("add", "--all")
    made.git("commit", "--quiet", "--amend", "--no-edit")


def mode_in_the_overlay(made: Repository) -> None:
    (made.root / "tools" / "run-it").chmod(0o644)
    made.git("commit", "--quiet", "--all", "--amend", "--no-edit")


def other_order(made: Repository) -> None:
    made.git("checkout", "--quiet", "-B", "sm12x", "base-v9.3.0")
    made.git("cherry-pick", "tip~1")  # three
    made.git("cherry-pick", "tip~3")  # one


def merge(made: Repository) -> None:
    made.git("checkout", "--quiet", "-b", "side", "HEAD~1")
    made.commit({"vllm/side.txt": b"side\n"}, message("Side", Topic="side"))
    made.git("checkout", "--quiet", "sm12x")
    made.git("merge", "--quiet", "--no-ff", "-m", "Merge", "side")


def stopped_rebase(made: Repository) -> None:
    made.git("-c", "sequence.editor=sed -i 1s/pick/edit/", "rebase", "-i", "base-v9.3.0")


def emptied(made: Repository) -> None:
    made.git("commit", "--quiet", "--allow-empty", "-m", message("Do new", Topic="new"))


REFUSED: dict[str, tuple[Callable[[Repository], object], str, str]] = {
    "a commit without a topic": (
        commit("Quick fix\n", {"vllm/new.txt": b"new\n"}),
        "(Quick fix) has no Topic",
        "commit --amend",
    ),
    "a topic that isn't in the last paragraph": (
        commit("Do\n\nTopic: new\n\nThe end.\n", {"vllm/new.txt": b"new\n"}),
        "(Do) has no Topic",
        "commit --amend",
    ),
    "a trailer nobody knows": (
        on_top(Wanted_For="me"),
        "(Do new): unknown trailer Wanted-For",
        "commit --amend",
    ),
    "a trailer that is missing": (
        on_top(Origin=""),
        "(Do new): the trailer Origin: is missing",
        "commit --amend",
    ),
    "a subject of two lines": (
        on_top("Do new\nand more"),
        "(Do new and more): the subject has several lines",
        "commit --amend",
    ),
    "a range that is none": (on_top(Bases="0.20 to 0.23"), "(Do new): Bases: ", "commit --amend"),
    "a name that is none": (on_top(Topic="No_name"), "(Do new): Topic: use", "commit --amend"),
    "a native source without components": (
        commit(message("Do new", Topic="new"), {"csrc/kernel.cu": b"new\n"}),
        "(Do new): it touches csrc/kernel.cu, which only a compile carries, and has no Components",
        "commit --amend",
    ),
    "a test file that isn't there": (
        on_top(Tests="tests/patched/test_lost.py"),
        "Tests: tests/patched/test_lost.py doesn't exist",
        "commit --amend",
    ),
    "a topic that says nothing of older bases": (
        on_top(Bases=">=9.3"),
        "topic new is unresolved on v9.1.0",
        "Not-Needed",
    ),
    "a range without the tree's base": (
        on_top(Bases="<9.3", Applied_Upstream="9.3"),
        "(Do new): Bases: <9.3 leaves out v9.3.0",
        "to mend Bases",
    ),
    "a range that ends too early": (
        lambda made: amend(made, "Do three", {}, Bases=">=9.2,<9.3"),
        "(Do three): Bases: ",
        "to mend Bases",
    ),
    "a topic that upstream has here": (
        on_top(Topic="old"),
        "no file of the topic old is for v9.3.0, see patches/vllm/old.patch",
        "Applied-Upstream",
    ),
    "two commits of a topic": (on_top(Topic="one"), "has the topic of commit", "fixup"),
    "a commit that changes nothing": (emptied, "(Do new) changes nothing", "drop it"),
    "the order of the commits": (
        other_order,
        "(Do one) comes after vllm/three.patch in the tree, and before it in series.txt",
        "series.txt",
    ),
    "a fixup in the overlay's commit": (
        fixup_of_the_overlay,
        "(Lay the overlay) changes vllm/ours.py",
        "make the change in overlay/vllm/vllm/ours.py",
    ),
    "a new file in the overlay's commit": (
        new_file_in_the_overlay,
        "(Lay the overlay) changes vllm/mine.py",
        "overlay/vllm/vllm/mine.py",
    ),
    "a mode in the overlay's commit": (
        mode_in_the_overlay,
        "(Lay the overlay) changes tools/run-it",
        "make the change in overlay/vllm/tools/run-it",
    ),
    "a patch that touches the overlay": (
        commit(message("Do new", Topic="new"), {"vllm/ours.py": b"ours = 2\n"}),
        "(Do new) changes vllm/ours.py, a file of the overlay",
        "make the change in overlay/vllm/vllm/ours.py",
    ),
    "a changed file": (
        lambda made: made.write({"vllm/envs.py": b"mine\n"}),
        "changes in no commit: M vllm/envs.py",
        "commit --fixup",
    ),
    "a file that git doesn't know": (
        lambda made: made.write({"vllm/mine.py": b"mine\n"}),
        "changes in no commit: ?? vllm/mine.py",
        "add -A",
    ),
    "a merge": (merge, "(Merge) is a merge", "rebase"),
    "a rebase that isn't done": (stopped_rebase, "a rebase is under way", "rebase --continue"),
    "no tag": (
        lambda made: made.git("tag", "--delete", "base-v9.3.0"),
        "has 0 tags base-v* below what is checked out (none)",
        "python build.py apply",
    ),
    "two tags": (
        lambda made: made.git("tag", "base-v9.2.0"),
        "has 2 tags base-v*",
        "python build.py apply",
    ),
    "a base that isn't pinned": (
        lambda made: (
            made.git("tag", "-m", "", "base-v8.0.0", "base-v9.3.0")
            + made.git("tag", "--delete", "base-v9.3.0")
        ),
        "'v8.0.0' is not a pinned base",
        "bases add v8.0.0",
    ),
    "no tag of what was laid": (
        lambda made: made.git("tag", "--delete", "overlay-v9.3.0"),
        "no tag overlay-v9.3.0",
        "tag overlay-v9.3.0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused(shared: Shared, tmp_path: Path, case: str) -> None:
    change, said, then = REFUSED[case]
    made = copy(shared.made, tmp_path / "tree")
    made.git("tag", "tip")
    change(made)
    before = written(shared.world)

    done = refresh(shared.world, made, "--offline")

    assert done.status == 2, done.err
    assert said in done.err
    assert then in done.next
    assert written(shared.world) == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--tree", "nowhere"), "not a git repository"),
        (("--tree", "patches"), "not a git repository"),
        (("four",), "four is neither a patch of series.txt nor a topic"),
        (("one", "--tree", "tree"), "no patch can be named beside it"),
    ],
)
def test_what_is_asked_for_is_not_there(shared: Shared, args: tuple[str, ...], said: str) -> None:
    done = shared.world.run("refresh", *args)
    assert done.status == 2
    assert said in done.err
    assert done.next


def test_the_tree_of_each_release_is_in_order(shared: Shared) -> None:
    """What the refusals above start from is not refused."""
    for tag in TAGS:
        done = refresh(shared.world, tree(shared.world, tag), "--check")
        assert done.status == 0, done.err
