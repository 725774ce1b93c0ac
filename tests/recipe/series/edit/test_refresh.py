# SPDX-License-Identifier: Apache-2.0
"""`refresh` writes what a commit changed, that alone, and only if it applies everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.ground import scratch
from tests.recipe.releases import (
    SERIES,
    TAGS,
    add_releases,
    amend,
    model,
    read_patch,
    refresh,
    tree,
    written,
)
from tests.recipe.repo import Repository, message
from tests.recipe.world import World


@pytest.fixture
def three(world: World) -> World:
    """Three releases, three patches; each patch has a subject of its own."""
    add_releases(world)
    for name in ("one", "two", "three"):
        path = world.root / "patches" / "vllm" / f"{name}.patch"
        path.write_bytes(
            path.read_bytes().replace(b"Subject: Change it", b"Subject: " + named(name))
        )
    return world


def named(topic: str) -> bytes:
    return f"Do {topic}".encode()


def in_order(world: World, *tags: str) -> None:
    """Whoever looks at the series now finds nothing to say; tags: whose trees are looked at."""
    world.good("lint")
    world.good("refresh", "--check")
    for tag in tags:
        assert not refresh(world, tree(world, tag), "--check").status


@pytest.mark.parametrize("tag", TAGS)
def test_apply_then_refresh_changes_nothing(three: World, tag: str) -> None:
    made = tree(three, tag)
    before = written(three)
    done = refresh(three, made, "--json")
    assert done.status == 0, done.err
    assert done.document["written"] == []
    assert len(done.document["unchanged"]) == 3
    assert written(three) == before
    assert refresh(three, made, "--check").status == 0


def test_a_file_that_is_not_canonical_stays_while_its_commit_does(three: World) -> None:
    path = three.root / "patches" / "vllm" / "three.patch"
    path.write_bytes(path.read_bytes() + b"-- \n2.39.5\n\n")
    before = written(three)
    assert refresh(three, tree(three)).status == 0
    assert written(three) == before


def test_without_a_tree_patches_are_brought_into_form(three: World) -> None:
    names = ("one", "three")
    before = written(three)
    for name in names:
        path = three.root / "patches" / "vllm" / f"{name}.patch"
        path.write_bytes(path.read_bytes() + b"-- \n2.39.5\n\n")
    spoilt = written(three)

    done = three.run("refresh", "--check")
    assert done.status == 4
    assert "patches/vllm/one.patch (written), patches/vllm/three.patch (written)" in done.err
    assert done.next == "python build.py refresh"
    assert written(three) == spoilt

    assert three.good("refresh", "three", "--json").document["written"] == [
        {"patch": "vllm/three.patch", "action": "written"}
    ]
    half = written(three)
    assert half["patches/vllm/one.patch"] == spoilt["patches/vllm/one.patch"]
    three.good("refresh", "patches/vllm/one.patch")
    after = written(three)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    three.good("refresh")
    assert written(three) == after


def test_a_changed_commit_is_written_on_the_first_base_and_no_other_file(three: World) -> None:
    made = tree(three)
    before = written(three)
    amend(made, "Do three", {"vllm/envs.py": b"better\n"})

    done = refresh(three, made)

    assert done.status == 0, done.err
    assert done.out == "written  patches/vllm/three.patch\n"
    after = written(three)
    assert after.pop("patches/vllm/three.patch") != before.pop("patches/vllm/three.patch")
    assert after == before
    assert "+better\n" in read_patch(three, "three")
    in_order(three)


def test_a_patch_on_the_same_file_follows_with_its_blob_ids(three: World) -> None:
    """The lines of two.patch stay; what git writes of them names the blobs that one.patch makes."""
    made = tree(three)
    old = read_patch(three, "two")
    amend(made, "Do one", {"vllm/model.py": model(TAGS[-1], line_8="better 8")})
    assert refresh(three, made).status == 0
    new = read_patch(three, "two")
    assert [a for a, b in zip(old.split("\n"), new.split("\n"), strict=True) if a != b] == [
        line for line in old.split("\n") if line.startswith("index ")
    ]
    in_order(three, TAGS[1])


def test_a_changed_message_is_enough(three: World) -> None:
    made = tree(three, TAGS[0])
    amend(made, "Do two", {}, Forwarded="example/upstream#1")
    old = read_patch(three, "two")
    assert refresh(three, made).status == 0
    assert read_patch(three, "two") == old.replace("Forwarded: no", "Forwarded: example/upstream#1")
    in_order(three)


def only_newest(world: World) -> Repository:
    """A change whose context the first two releases don't have."""
    made = tree(world)
    edit = model(TAGS[-1], line_8="ours 8", line_20="ours 20", line_32="ours 32")
    amend(made, "Do two", {"vllm/model.py": edit})
    return made


def test_a_change_that_older_bases_cannot_take_is_not_written(three: World) -> None:
    made = only_newest(three)
    before = written(three)

    done = refresh(three, made)

    assert done.status == 4
    assert "on v9.1.0 v9.2.0: patches/vllm/two.patch doesn't apply" in done.err
    assert "apply --base v9.1.0 --tree DIR" in done.next
    assert done.next.endswith("the trailer Bases: >=9.3 in the commit")
    assert written(three) == before


def test_narrower_bases_split_the_file(three: World) -> None:
    made = only_newest(three)
    old = read_patch(three, "two")
    amend(made, "Do two", {}, Bases=">=9.3")

    done = refresh(three, made, "--json")

    assert done.status == 0, done.err
    assert done.document["written"] == [
        {"patch": "vllm/two.patch", "action": "bounded"},
        {"patch": "vllm/two-9.3.patch", "action": "new"},
    ]
    assert read_patch(three, "two") == old.replace("Bases: >=9\n", "Bases: >=9,<9.3\n")
    assert "Bases: >=9.3\n" in read_patch(three, "two-9.3")
    text = (three.root / "series.txt").read_text(encoding="utf-8")
    assert text == SERIES.replace("top of one\n", "top of one\nvllm/two-9.3.patch\n")
    before = written(three)
    assert refresh(three, made).status == 0
    assert written(three) == before
    in_order(three, TAGS[0], TAGS[-1])


def test_bases_narrowed_because_it_is_not_needed_there_split_nothing(three: World) -> None:
    made = tree(three)
    amend(made, "Do three", {}, Bases=">=9.3\nNot-Needed: <9.3")
    assert refresh(three, made).out == "written  patches/vllm/three.patch\n"
    in_order(three)


def test_a_change_that_a_newer_base_cannot_take_names_it(three: World) -> None:
    made = tree(three, TAGS[0])
    edit = model(TAGS[0], line_8="ours 8", line_20="ours 20", line_32="ours 32")
    amend(made, "Do two", {"vllm/model.py": edit})
    done = refresh(three, made)
    assert done.status == 4
    assert "on v9.3.0: patches/vllm/two.patch doesn't apply" in done.err
    assert "apply --base v9.3.0" in done.next
    assert done.next.endswith("Bases: >=9.3")


def test_a_change_that_breaks_a_later_patch_elsewhere_is_not_written(three: World) -> None:
    """The tree ends before two.patch, so its rebase can't tell."""
    made = tree(three, TAGS[0], "--until", "two")
    amend(made, "Do one", {"vllm/model.py": model(TAGS[0], line_8="ours 8", line_19="mine")})
    before = written(three)
    done = refresh(three, made)
    assert done.status == 4
    assert "on v9.1.0 v9.2.0 v9.3.0: patches/vllm/two.patch doesn't apply" in done.err
    assert written(three) == before


def test_a_hunk_that_would_find_another_place_is_not_written(three: World) -> None:
    """In 9.3 the block stands twice; the only place that 9.1 has for it is the wrong one there."""
    made = tree(three)
    block = "".join(f"line {number}\n" for number in range(10, 19)).encode()
    twice = made.git("show", "HEAD:vllm/model.py") + block
    made.git("checkout", "--quiet", "--detach", "base-v9.3.0")
    start = made.commit({"vllm/model.py": model(TAGS[-1]) + block}, "a release")
    made.git("tag", "--force", "base-v9.3.0", start)
    made.git("rebase", "--quiet", "--onto", start, f"{start}~1", "sm12x")
    assert made.git("show", "HEAD:vllm/model.py") == twice
    edit = {"vllm/model.py": twice[: -len(block)] + block.replace(b"line 14\n", b"ours 14\n")}
    made.commit(edit, message("Do four", Topic="four"))
    before = written(three)

    done = refresh(three, made)

    assert done.status == 4
    assert "a hunk finds its place elsewhere" in done.err
    assert written(three) == before


@pytest.mark.parametrize(
    ("after", "line"),
    [
        (None, "# First group\nvllm/new-one.patch\nvllm/one.patch\n"),
        ("Do one", "vllm/one.patch\nvllm/new-one.patch\nvllm/two.patch # on top of one\n"),
        ("Lay the overlay", "vllm/three.patch\nvllm/new-one.patch\n"),
    ],
)
def test_a_commit_with_a_new_topic_becomes_a_file_where_it_stands(
    three: World, after: str | None, line: str
) -> None:
    made = tree(three, TAGS[0])
    place = f":/^{after}" if after else "base-v9.1.0"
    start = made.text("rev-parse", place)
    made.git("checkout", "--quiet", "--detach", start)
    made.commit({"csrc/kernel.cu": b"new\n"}, message("Do new", Topic="new-one", Components="_C"))
    if start != made.text("rev-parse", "sm12x"):
        made.git("rebase", "--quiet", "--onto", "HEAD", start, "sm12x")
    before = written(three)

    done = refresh(three, made)

    assert done.status == 0, done.err
    assert done.out == "new      patches/vllm/new-one.patch\n"
    text = (three.root / "series.txt").read_text(encoding="utf-8")
    assert line in text
    assert text.replace("vllm/new-one.patch\n", "") == SERIES
    after_run = written(three)
    for name in ("one", "two", "three"):
        path = f"patches/vllm/{name}.patch"
        assert after_run[path] == before[path]
    in_order(three)


def test_a_new_topic_goes_behind_all_files_of_the_one_before(three: World) -> None:
    made = only_newest(three)
    amend(made, "Do two", {}, Bases=">=9.3")
    assert refresh(three, made).status == 0
    made = tree(three, TAGS[0], "--until", "three")
    made.commit({"vllm/new.py": b"new\n"}, message("Do new", Topic="new"))
    assert refresh(three, made).status == 0
    text = (three.root / "series.txt").read_text(encoding="utf-8")
    assert "vllm/two-9.3.patch\nvllm/new.patch\n" in text


def test_a_patch_without_a_commit_is_left_and_named(three: World) -> None:
    before = written(three)
    done = refresh(three, tree(three, TAGS[0], "--until", "two"), "--json")
    assert done.document["absent"] == ["vllm/two.patch", "vllm/three.patch"]
    assert "no commit for patches/vllm/two.patch" in done.err
    assert written(three) == before


def test_check_writes_nothing_and_names_what_would_be(three: World) -> None:
    made = only_newest(three)
    amend(made, "Do two", {}, Bases=">=9.3")
    before = written(three)
    done = refresh(three, made, "--check")
    assert done.status == 4
    assert "patches/vllm/two.patch (bounded), patches/vllm/two-9.3.patch (new)" in done.err
    assert done.next == f"python build.py refresh --tree {made.root}"
    assert written(three) == before


def test_a_run_that_ends_before_series_txt_leaves_a_series_that_says_what_to_type(
    three: World,
) -> None:
    made = only_newest(three)
    amend(made, "Do two", {}, Bases=">=9.3")
    code = three.root / "recipe" / "series" / "edit" / "refresh.py"
    text = code.read_text(encoding="utf-8")
    last = "        write_whole(project.series_file, text)"
    assert text.count(last) == 1
    code.write_text(text.replace(last, "        raise KeyboardInterrupt"), encoding="utf-8")
    assert refresh(three, made).status == 130
    code.write_text(text, encoding="utf-8")

    for verb in (["lint"], ["refresh", "--tree", str(made.root)]):
        done = three.run(*verb)
        assert done.status == 2
        assert done.next.startswith("add the line 'vllm/two-9.3.patch' to series.txt")
    path = three.root / "series.txt"
    text = SERIES.replace("\n\n# Last", "\nvllm/two-9.3.patch\n\n# Last")
    path.write_text(text, encoding="utf-8")
    assert refresh(three, made).status == 0
    in_order(three)


def test_what_a_killed_run_left_is_no_patch(three: World) -> None:
    made = tree(three)
    amend(made, "Do three", {"vllm/envs.py": b"better\n"})
    folder = three.root / "patches" / "vllm"
    left = folder / scratch.half_written(folder / "three.patch")
    left.write_bytes(b"half")
    three.good("lint")
    assert refresh(three, made).status == 0
    assert not left.exists()


def test_the_tree_can_be_named_from_another_folder(three: World, tmp_path: Path) -> None:
    made = tree(three)
    amend(made, "Do three", {"vllm/envs.py": b"better\n"})
    done = three.run("refresh", "--tree", made.root.name, cwd=tmp_path)
    assert done.status == 0, done.err
    assert "+better\n" in read_patch(three, "three")
