# SPDX-License-Identifier: Apache-2.0
"""`new` starts a patch; what it prints next leads to a file in the series."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipe.releases import SERIES, add_releases, refresh, tree
from tests.recipe.repo import Repository
from tests.recipe.world import World

EDITOR = "sed -i -e '1s/^/Do the new thing/' -e 's/^# Above.*/Because./'"


@pytest.fixture
def three(world: World) -> World:
    add_releases(world)
    return world


def subjects(made: Repository) -> int:
    return len(made.text("log", "--format=%H", "base-v9.1.0..").splitlines())


def commit(made: Repository, folder: str = ".", editor: str = EDITOR) -> None:
    """As a person would: in an editor, from a folder of the tree."""
    made.write({"vllm/new.txt": b"new\n"})
    made.git("add", "--all")
    made.git("-C", folder, "-c", f"core.editor={editor}", "commit", "--quiet")


def test_from_a_topic_to_a_patch_of_the_series(three: World, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    done = three.good("new", "my-topic", "--base", "v9.1.0", "--tree", str(folder), "--json")
    made = Repository(root=folder)
    assert done.document["after"] == "vllm/three.patch"
    assert done.document["next"][-1] == f"python build.py refresh --tree {folder}"
    assert "tests/patched/test_my_topic.py" in done.err
    assert subjects(made) == 3
    commit(made, "csrc")

    refreshed = refresh(three, made)

    assert refreshed.status == 0, refreshed.err
    text = (three.root / "patches" / "vllm" / "my-topic.patch").read_text(encoding="utf-8")
    head, _, trailers = text.partition("diff --git")[0].partition("Because.\n\n")
    assert "Subject: Do the new thing\n" in head
    assert trailers == (
        "Topic: my-topic\nBases: >=9.1\nOrigin: vendor\nForwarded: no\nTests: none\n\n"
    )
    series = (three.root / "series.txt").read_text(encoding="utf-8")
    assert series == SERIES + "vllm/my-topic.patch\n"
    three.good("lint")
    assert refresh(three, tree(three), "--check").status == 0


def test_after_a_patch_it_gets_its_place_in_the_series(three: World, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    args = ("--base", "v9.1.0", "--after", "one", "--tree", str(folder))
    done = three.good("new", "my-topic", *args)
    assert "my-topic starts on v9.1.0, after vllm/one.patch" in done.out
    made = Repository(root=folder)
    assert subjects(made) == 1
    commit(made)
    assert refresh(three, made).status == 0
    series = (three.root / "series.txt").read_text(encoding="utf-8")
    assert "vllm/one.patch\nvllm/my-topic.patch\nvllm/two.patch" in series


def test_a_message_that_was_not_filled_in_makes_no_commit(three: World, tmp_path: Path) -> None:
    three.good("new", "my-topic", "--base", "v9.1.0", "--tree", str(tmp_path / "work"))
    made = Repository(root=tmp_path / "work")
    made.write({"vllm/new.txt": b"new\n"})
    made.git("add", "--all")
    with pytest.raises(Exception, match="commit"):
        made.git("-c", "core.editor=true", "commit", "--quiet")
    assert subjects(made) == 3


def test_the_template_of_a_newer_base_is_refreshed_as_it_stands(
    three: World, tmp_path: Path
) -> None:
    """With nothing but a subject typed: the other releases and a test ask for no word."""
    folder = tmp_path / "work"
    three.good("new", "my-topic", "--tree", str(folder))
    template = (folder / ".git" / "commit-template").read_text(encoding="utf-8")
    assert "# Older releases are pinned as well, v9.1.0 to v9.2.0" in template
    made = Repository(root=folder)
    commit(made, editor="sed -i '1s/^/Do the new thing/'")
    assert refresh(three, made).status == 0
    three.good("lint")
    text = (three.root / "patches" / "vllm" / "my-topic.patch").read_text(encoding="utf-8")
    assert "\nBases: >=9.3\nOrigin: vendor\nForwarded: no\nNot-Needed: <9.3\nTests: none\n" in text


def test_an_edit_without_a_commit_is_never_put_into_anothers_patch(
    three: World, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    three.good("new", "my-topic", "--tree", str(folder))
    made = Repository(root=folder)
    made.write({"vllm/new.txt": b"new\n"})
    done = refresh(three, made)
    assert done.status == 2
    assert "--amend" not in done.next
    assert "commit for a patch of its own" in done.next
    commit(made)
    made.write({"vllm/new.txt": b"newer\n"})
    assert "commit --amend" in refresh(three, made).next  # its own patch, begun in this tree


@pytest.mark.parametrize(
    ("topic", "said"),
    [
        ("two", "the topic two exists: patches/vllm/two.patch"),
        ("Two", "'Two' is no name for a topic"),
        ("a_b", "'a_b' is no name for a topic"),
        ("../x", "'../x' is no name for a topic"),
        ("", "'' is no name for a topic"),
    ],
)
def test_a_topic_that_cannot_be_is_refused_before_anything_is_fetched(
    three: World, tmp_path: Path, topic: str, said: str
) -> None:
    done = three.run("new", topic, "--tree", str(tmp_path / "work"))
    assert done.status == 2
    assert said in done.err
    assert done.next.startswith("python build.py")
    assert not (tmp_path / "work").exists()
    assert three.index.asked == []


def test_after_a_patch_that_is_not_there(three: World, tmp_path: Path) -> None:
    done = three.run("new", "mine", "--after", "four", "--tree", str(tmp_path / "work"))
    assert done.status == 2
    assert "--after four: no such patch applies on this base" in done.err
    assert not (tmp_path / "work").exists()


def test_a_folder_with_work_in_it_is_kept(three: World, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine").touch()
    done = three.run("new", "mine", "--tree", str(tmp_path / "work"))
    assert done.status == 2
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["mine"]
