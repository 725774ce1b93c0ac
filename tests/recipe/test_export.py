# SPDX-License-Identifier: Apache-2.0
"""What `export` writes is what quilt and git am make the patched tree from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.recipe.repo import Repository
from tests.recipe.world import World


@pytest.fixture
def changed(world: World) -> World:
    """Two patches, one of which touches what the other made, and overlay files of both modes."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": b"one\n"}))
    second = world.upstream.patch({"vllm/model.py": b"one\ntwo\n"}, Topic="second")
    world.add_patch("two.patch", second)
    world.add_overlay("vllm/sm12x/new.py", b"new = 1\n")
    world.add_overlay("tools/run-it", b"#!/bin/sh\n").chmod(0o755)
    return world


def patched_tree(world: World) -> Repository:
    folder = world.root / "patched"
    world.good("apply", "--tree", str(folder))
    return Repository(root=folder)


def test_git_am_makes_the_patched_tree_of_it(changed: World) -> None:
    mails = changed.root / "mails"
    changed.good("export", "--git", str(mails))
    patched = patched_tree(changed)
    wanted = patched.text("rev-parse", "HEAD^{tree}")
    patched.git("checkout", "--quiet", "-B", "again", "base-v9.1.0")

    names = sorted(path.name for path in mails.iterdir())
    patched.git("am", "--keep-non-patch", "--keep-cr", *(str(mails / name) for name in names))

    assert names == ["0001-vllm-one.patch", "0002-vllm-two.patch", "0003-overlay.patch"]
    assert patched.text("rev-parse", "HEAD^{tree}") == wanted


@pytest.mark.skipif(shutil.which("quilt") is None, reason="quilt is not installed")
def test_quilt_pushes_the_patched_tree_and_pops_back(changed: World, tmp_path: Path) -> None:
    folder = changed.root / "quilt"
    changed.good("export", "--quilt", str(folder))
    patched = patched_tree(changed)
    work = tmp_path / "work"
    patched.git("worktree", "add", "--quiet", str(work), "base-v9.1.0")
    env = {**os.environ, "QUILT_PATCHES": str(folder)}

    def quilt(*words: str) -> None:
        command = ["quilt", "--quiltrc=-", *words]
        subprocess.run(command, cwd=work, env=env, check=True, capture_output=True)

    def status(commit: str) -> str:
        there = Repository(root=work)
        there.git("add", "--all", "--force", ":!.pc")
        return there.text("diff", "--cached", "--name-status", commit)

    quilt("push", "-a", "--fuzz=0")
    assert status("sm12x") == ""
    quilt("pop", "-a")
    assert status("base-v9.1.0") == ""


def test_an_export_is_the_same_every_time(changed: World) -> None:
    folders = [changed.root / "first", changed.root / "second"]
    for folder in folders:
        changed.good("export", "--git", str(folder))
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert first == second


def test_a_folder_with_something_in_it_is_refused_and_kept(changed: World) -> None:
    folder = changed.root / "mine"
    folder.mkdir()
    (folder / "work").write_text("mine", encoding="utf-8")

    done = changed.run("export", "--quilt", str(folder))

    assert done.status == 2
    assert "not empty" in done.err
    assert "--quilt" in done.next
    assert [path.name for path in folder.iterdir()] == ["work"]
