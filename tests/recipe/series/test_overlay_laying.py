# SPDX-License-Identifier: Apache-2.0
"""The overlay holds new files only: one that would hide upstream's is refused."""

from __future__ import annotations

import os

import pytest

from recipe.bases.releases import load_bases
from tests.recipe.repo import Repository
from tests.recipe.world import World


def test_lays_new_files_with_their_mode(world: World) -> None:
    world.add_overlay("vllm/deep/er/new.py", b"new = 1\n")
    world.add_overlay("tools/run-it", b"#!/bin/sh\n").chmod(0o755)
    world.add_overlay("vllm/deep/__pycache__/new.cpython-311.pyc", b"compiled")
    world.add_overlay("vllm/deep/new.py~", b"backup")
    tree = world.root / "tree"

    world.good("apply", "--tree", str(tree))

    listed = Repository(root=tree).text("diff", "--raw", "--no-renames", "base-v9.1.0", "HEAD")
    rows = {line.split("\t")[1]: line.split()[1] for line in listed.splitlines()}
    assert rows == {
        "tools/run-it": "100755",
        "vllm/deep/er/new.py": "100644",
    }


@pytest.mark.parametrize(
    "path",
    [
        "vllm/model.py",  # a file of upstream's
        "vllm/model.py/below.py",  # below a file of upstream's
        "vllm/data",  # where upstream has a folder
        "csrc",
    ],
)
def test_a_path_upstream_has_is_refused(world: World, path: str) -> None:
    laid = world.add_overlay(path, b"ours\n")
    tree = world.root / "tree"

    done = world.run("apply", "--tree", str(tree))

    assert done.status == 4, done.err
    assert f"the overlay file {path} " in done.err
    assert done.next.startswith("git mv the overlay file")
    assert not tree.exists()
    laid.unlink()
    world.add_overlay("vllm/fresh.py", b"ours\n")
    world.good("apply", "--tree", str(tree))


def test_a_file_that_a_patch_added_is_refused_too(world: World) -> None:
    world.add_patch("new.patch", world.upstream.patch({"vllm/fresh.py": b"theirs\n"}))
    world.add_overlay("vllm/fresh.py", b"ours\n")

    done = world.run("apply", "--tree", str(world.root / "tree"))

    assert done.status == 4
    assert "the overlay file vllm/fresh.py exists" in done.err


def test_a_name_with_glob_letters_is_taken_literally(world: World) -> None:
    world.add_overlay("vllm/mod?l.py", b"ours\n")
    world.add_overlay("vllm/[m]odel.py", b"ours\n")
    world.good("plan")


def test_the_deepgemm_pin_is_laid_where_a_patch_reads_it(world: World) -> None:
    change = {"cmake/external_projects/deepgemm.cmake": b"include(../sm12x_pins.cmake)\n"}
    patch = world.upstream.patch(change, Topic="deepgemm-pin", Components="none")
    world.add_patch("pin.patch", patch)
    tree = world.root / "tree"

    world.good("apply", "--tree", str(tree))

    pins = (tree / "cmake" / "sm12x_pins.cmake").read_text(encoding="utf-8")
    shell = (tree / "tools" / "sm12x_pins.sh").read_text(encoding="utf-8")
    pinned = load_bases(world.root / "bases.toml").releases[-1].pin_of("deepgemm").pin
    assert f'SM12X_DEEPGEMM_COMMIT "{pinned}"' in pins
    assert f'DEEPGEMM_GIT_REF="{pinned}"' in shell


@pytest.mark.parametrize(
    ("command", "target", "place"),
    [
        ("build", "/proc/self/environ", "vllm/l.py"),
        ("plan", "../../../bases.toml", "vllm/l.py"),
        ("apply", "/etc", "vllm/folder"),
        ("lint", "real.py", "vllm/l.py"),
        ("lint", "nowhere", "vllm/l.py"),
    ],
)
def test_a_link_in_the_overlay_is_refused_and_not_read(
    world: World, command: str, target: str, place: str
) -> None:
    world.add_overlay("vllm/real.py", b"ours\n")
    (world.root / "overlay" / "vllm" / place).symlink_to(target)
    options = {"apply": ["--tree", str(world.root / "tree")], "build": ["--out", str(world.out)]}

    done = world.run(command, *options.get(command, []), env={"HF_TOKEN": "hf_secret"})

    assert done.status == 2, done.err
    assert f"'{place}' is a link; the overlay holds files" in done.err
    assert done.next
    assert "hf_secret" not in done.err + done.out
    assert not (world.root / "tree").exists()
    assert not list(world.out.glob("*.whl"))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["vllm/a\nb.py"], r"'vllm/a\nb.py' has a control character"),
        (["vllm/caf\udce9.py"], r"'vllm/caf\xe9.py' isn't UTF-8"),
        ([".git/config"], "'.git/config' leaves the tree"),
        (["vllm/.GIT/config"], "'vllm/.GIT/config' leaves the tree"),
        (["vllm/new.py", "vllm/New.py"], "on a disk that folds letters"),
    ],
)
def test_an_odd_name_in_the_overlay_is_refused(world: World, names: list[str], said: str) -> None:
    for name in names:
        world.add_overlay(name, b"ours\n")
    done = world.run("lint")
    assert done.status == 2, done.err
    assert said in done.err
    assert done.next


def test_a_pipe_in_the_overlay_is_named_and_not_opened(world: World) -> None:
    world.add_overlay("vllm/new.py", b"ours\n")
    os.mkfifo(world.root / "overlay" / "vllm" / "vllm" / "pipe")
    done = world.run("plan")
    assert done.status == 2
    assert "'vllm/pipe' is a pipe, a socket or a device" in done.err
