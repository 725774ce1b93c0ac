# SPDX-License-Identifier: Apache-2.0
"""What `export` writes is what quilt and git am make the patched tree from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from recipe.ground.errors import ConfigError
from recipe.objects.git import Store
from recipe.series.export import beyond_quilt, export_quilt
from recipe.series.topics import Series
from recipe.series.tree import apply_all
from tests.recipe.repo import Repository, fetched, read
from tests.recipe.world import World

Files = dict[str, bytes | None]


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


# What GNU patch, which quilt calls, can't do: name, the tree before and after, the reason.
BEYOND: dict[str, tuple[Files, Files, str]] = {
    "a binary": ({}, {"x.bin": b"\0\1"}, "no binary hunks"),
    "an empty file with a blank": ({}, {"a b": b""}, "a name with a blank"),
    "a rename with a blank": ({"a b": b"1\n2\n"}, {"a b": None, "c": b"1\n2\n"}, "with a blank"),
    "a folder for a file": ({"a": b"1\n"}, {"a": None, "a/b": b"2\n"}, "the file a and the folder"),
}


@pytest.mark.skipif(shutil.which("patch") is None, reason="GNU patch is not installed")
@pytest.mark.parametrize("case", sorted(BEYOND))
def test_what_quilt_cannot_hold_is_refused_with_its_line(
    tmp_path: Path, store: Store, upstream: Repository, case: str
) -> None:
    before, after, why = BEYOND[case]
    upstream.commit(before)
    base = fetched(store, upstream)
    if "a/b" in after:
        upstream.write({"a": None})
        after = {"a/b": after["a/b"]}
    patch = read(tmp_path, upstream.patch(after))
    series = Series(topics=(), patches=(patch,), files=(), digest="")
    applied = apply_all(store, base, (patch,), ())

    with pytest.raises(ConfigError) as caught:
        export_quilt(store, series, applied, tmp_path / "quilt")

    assert why in caught.value.what
    assert caught.value.what.startswith("patches/vllm/change.patch:")
    assert caught.value.next == "python build.py export --git DIR"
    assert not (tmp_path / "quilt").exists()
    upstream.git("reset", "--quiet", "--hard", base)
    command = ["patch", "-p1", "--fuzz=0", "--force"]
    done = subprocess.run(
        command, cwd=upstream.root, input=patch.content, capture_output=True, check=False
    )
    assert done.returncode != 0


@pytest.mark.parametrize("names", [("a/b.patch", "a-b.patch"), ("a b.patch",)])
def test_a_file_name_that_quilt_cannot_hold_is_refused(
    tmp_path: Path, store: Store, upstream: Repository, names: tuple[str, ...]
) -> None:
    base = fetched(store, upstream)
    content = upstream.patch({"vllm/envs.py": b"new\n"})
    patches = []
    for name in names:
        (tmp_path / "patches" / "vllm" / name).parent.mkdir(parents=True, exist_ok=True)
        patches.append(read(tmp_path, content, name))
    assert not any(list(beyond_quilt(patch)) for patch in patches)
    applied = apply_all(store, base, tuple(patches[:1]), ())
    series = Series(topics=(), patches=tuple(patches), files=(), digest="")

    with pytest.raises(ConfigError, match=r"patches/vllm/a.b\.patch: quilt needs another name"):
        export_quilt(store, series, applied, tmp_path / "quilt")
