# SPDX-License-Identifier: Apache-2.0
"""Commits as people make them: signed off, or with a subject that git am would change."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.ground.errors import ConfigError
from recipe.series.header import set_trailer
from recipe.series.patch import parse_patch
from tests.recipe.releases import add_releases, refresh, tree
from tests.recipe.repo import Repository, message, new_repository
from tests.recipe.small import TREE
from tests.recipe.world import World


@pytest.fixture
def three(world: World) -> World:
    add_releases(world)
    return world


def added(made: Repository, text: str, *options: str) -> None:
    made.write({"vllm/new.txt": b"new\n"})
    made.git("add", "--all")
    made.git("commit", "--quiet", *options, "-m", text)


def head_of(world: World, name: str) -> str:
    path = world.root / "patches" / "vllm" / f"{name}.patch"
    return path.read_text(encoding="utf-8").partition("diff --git")[0]


def test_a_sign_off_is_kept_and_stays_last(three: World) -> None:
    made = tree(three)
    added(made, message("Do new", Topic="new", Bases=">=9"), "-s")
    made.git("commit", "--quiet", "--amend", "--no-edit", "--trailer", "Co-authored-by: A <a@b.c>")

    assert refresh(three, made).status == 0

    block = head_of(three, "new").rstrip().splitlines()[-2:]
    assert block[0].startswith("Signed-off-by: vllm-sm12x maintainers <")
    assert block[1] == "Co-authored-by: A <a@b.c>"
    three.good("lint")
    path = three.root / "patches" / "vllm" / "new.patch"
    changed = set_trailer(path.read_bytes(), "Applied-Upstream", "9.4").decode()
    assert changed.index("Applied-Upstream: ") < changed.index("Tests: ")
    changed = set_trailer(path.read_bytes(), "Components", "none").decode()
    assert changed.index("Components: none") < changed.index("Signed-off-by: ")
    assert refresh(three, made, "--check").status == 0


def test_blanks_in_a_subject_become_single_ones(three: World) -> None:
    made = tree(three)
    added(made, message("Do  new  things", Topic="new", Bases=">=9"))
    assert refresh(three, made).status == 0
    assert "\nSubject: Do new things\n" in head_of(three, "new")
    assert refresh(three, made, "--check").status == 0


@pytest.mark.parametrize("listed", [True, False])
def test_a_plain_diff_among_the_patches_is_told_the_way_in(three: World, listed: bool) -> None:
    made = tree(three)
    made.write({"vllm/envs.py": b"theirs\n"})
    name = "theirs.patch"
    path = three.root / "patches" / "vllm" / name
    path.write_bytes(made.git("diff"))
    if listed:
        with (three.root / "series.txt").open("a", encoding="utf-8") as series:
            series.write(f"vllm/{name}\n")
    done = three.run("lint")
    assert done.status == 2
    if listed:
        assert "it is a plain diff" in done.err
        assert "python build.py new TOPIC" in done.next and "../theirs.patch" in done.next


def test_a_mail_without_our_trailers_is_told_the_way_in(tmp_path: Path) -> None:
    made = new_repository(tmp_path / "up", TREE)
    made.commit({"vllm/envs.py": b"theirs\n"}, "Theirs\n\nWhy.\n\nSigned-off-by: A <a@b.c>")
    with pytest.raises(ConfigError, match="a mail without the series' trailers") as error:
        parse_patch("vllm/theirs.patch", made.git("format-patch", "-1", "--stdout"))
    assert "python build.py new TOPIC" in error.value.next


def test_missing_trailers_are_named_at_once(tmp_path: Path) -> None:
    made = new_repository(tmp_path / "up", TREE)
    content = made.patch({"vllm/envs.py": b"x\n"}, Origin="", Forwarded="", Tests="")
    with pytest.raises(ConfigError, match="the trailers Origin, Forwarded, Tests are missing"):
        parse_patch("vllm/x.patch", content)


def test_the_line_that_export_prints_takes_carriage_returns(world: World, tmp_path: Path) -> None:
    """As vllm/config/fault_tolerance.py of v0.33.0 has them."""
    lines = b"".join(b"line %d\r\n" % n for n in range(9))
    world.upstream.commit({"vllm/crlf.py": lines})
    first = world.upstream.format_patch()
    head, _, diff = first.partition(b"\ndiff --git")
    head = head.replace(b"change", message("Add it", Topic="add").rstrip().encode())
    world.add_patch("add.patch", head + b"\n\ndiff --git" + diff)
    content = world.upstream.patch({"vllm/crlf.py": lines.replace(b"4\r", b"four\r")})
    world.add_patch("crlf.patch", content)
    done = world.good("export", "--git", str(tmp_path / "mails"))
    line = done.out.splitlines()[-1].split()
    mails = sorted(str(path) for path in (tmp_path / "mails").glob("*.patch"))
    assert line[:2] == ["git", "am"]
    made = new_repository(tmp_path / "theirs", TREE)
    made.git(*line[1:-1], *mails)
    assert (made.root / "vllm" / "crlf.py").read_bytes() == lines.replace(b"4\r", b"four\r")
