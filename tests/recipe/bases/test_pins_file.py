# SPDX-License-Identifier: Apache-2.0
"""bases.toml: found by tag, short tag or `latest`, refused where malformed, written as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.bases.catalog import render
from recipe.bases.releases import load_bases
from recipe.ground.errors import ConfigError, UsageError
from tests.recipe import small
from tests.recipe.world import CHECKOUT, World

TOML = small.bases_toml(b"sdist", {"x86_64": b"wheel", "aarch64": b"wheel"})


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("v0.33.0", "v0.33.0"),
        ("0.33.0", "v0.33.0"),
        ("v0.20", "v0.20.2"),
        ("0.20", "v0.20.2"),
        ("v0.25", "v0.25.1"),
        ("v0.20.1", "v0.20.1"),
    ],
)
def test_a_base_is_found_by_its_tag_or_the_beginning_of_it(asked: str, found: str) -> None:
    assert load_bases(CHECKOUT / "bases.toml").find(asked).tag == found


def test_latest_is_the_newest_by_version_not_by_place(tmp_path: Path) -> None:
    entries = "".join(
        TOML.partition("[[base]]")[2].replace("v9.1.0", tag).join(["[[base]]", "\n"])
        for tag in ("v9.10.0", "v9.9.0", "v9.10.0.post1", "v9.2.0")
    )
    path = tmp_path / "bases.toml"
    path.write_text("schema = 1\nrevision = 4\n\n" + entries, encoding="utf-8")
    bases = load_bases(path)
    assert bases.find("latest").tag == "v9.10.0.post1"
    assert bases.find("v9.9").tag == "v9.9.0"
    assert bases.releases[0].tag == "v9.2.0"


@pytest.mark.parametrize("asked", ["v0.19.0", "0.99", "v1", "main", "", "v0.33.0 "])
def test_an_unknown_base_lists_the_known_ones(asked: str) -> None:
    bases = load_bases(CHECKOUT / "bases.toml")
    with pytest.raises(UsageError) as caught:
        bases.find(asked)
    assert all(base.tag in caught.value.what for base in bases.releases)
    wanted = {"main": "main", "0.99": "v0.99", "v0.19.0": "v0.19.0", "v1": "v1"}
    assert caught.value.next == f"python build.py bases add {wanted.get(asked, 'v0.33.0')}"


def test_an_unknown_base_ends_the_command_with_2(world: World) -> None:
    done = world.run("build", "--base", "v9.7.0")
    assert done.status == 2
    assert "'v9.7.0' is not a pinned base; known: v9.1.0" in done.err
    assert done.next == "python build.py bases add v9.7.0"
    assert not world.out.exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema = 1", "schema = 2", "schema 2; this recipe reads schema 1"),
        ("schema = 1", "schema = ", "Invalid value"),
        ("schema = 1\n", "", "schema None"),
        ("revision = 4\n", "", "revision"),
        ("revision = 4", 'revision = "four"', "revision"),
        ('commit = "0123abcde"\n', "", "v9.1.0: KeyError: 'commit'"),
        ('python = ">=3.10"', 'python = "three"', "v9.1.0: InvalidSpecifier"),
        (small.sha256(b"sdist"), "abc", "not a sha256"),
        (small.SDIST, "../evil.tar.gz", "not a file name"),
        ("sdist = ", "source = ", "its source is either an sdist or git"),
        ('"v9.1.0"', '"newest"', "InvalidVersion"),
        ("[[base]]", "[[bases]]", "pins no release"),
        ('"v9.1.0"', '"v9.1.0 "', "not the tag of a release"),
        ('"0123abcde"', '"--help"', "not a commit"),
        (small.SDIST, "evil\\n.tar.gz", r"'evil\n.tar.gz' isn't a plain file name"),
        ("https://deepgemm.example/x.git", "--upload-pack=touch x", "not an address"),
        ("ab" * 20, "v1:refs/sm12x/sdist/x", "not a tag or a commit"),
        ("ab" * 20, "--output=x", "not a tag or a commit"),
        (f'pin = "{"ab" * 20}"', f'pin = "{"ab" * 20}", tree = "HEAD"', "the id of a tree"),
        (f'"{small.sha256(b"sdist")}"', f'"{small.sha256(b"sdist")}", size = 0', "not a size"),
        (f'"{small.sha256(b"sdist")}"', f'"{small.sha256(b"sdist")}", size = true', "not a size"),
        (f'"{small.sha256(b"sdist")}"', f'"{small.sha256(b"sdist")}", tree = "x"', "id of a tree"),
    ],
)
def test_a_malformed_file_is_named_with_the_base(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in TOML
    path = tmp_path / "bases.toml"
    path.write_text(TOML.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_bases(path)
    assert "bases.toml" in caught.value.what
    assert said in caught.value.what
    assert caught.value.next


def test_a_missing_file_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_bases(tmp_path / "bases.toml")
    assert caught.value.next == "git checkout -- bases.toml"


def test_what_is_committed_is_what_the_program_writes() -> None:
    path = CHECKOUT / "bases.toml"
    assert render(load_bases(path)) == path.read_text(encoding="utf-8")


def test_every_release_pins_sizes_and_the_tree_of_its_archive() -> None:
    for base in load_bases(CHECKOUT / "bases.toml").releases:
        assert base.sdist.tree
        assert all(archive.size for archive in (base.sdist, *base.wheels.values()))
        assert not any(archive.tree for archive in base.wheels.values())


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "bases.toml"
    path.write_text(TOML, encoding="utf-8")
    bases = load_bases(path)
    path.write_text(render(bases), encoding="utf-8")
    assert load_bases(path) == bases
