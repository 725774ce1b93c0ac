# SPDX-License-Identifier: Apache-2.0
"""Nothing that a foreign repository or the caller's environment names is run or decides a tree."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from recipe.objects import foreign
from recipe.objects.gate.folder import folder_entries
from recipe.objects.git import Store
from tests.recipe.repo import Repository, new_repository
from tests.recipe.world import World

# Each names a program in a way that git takes from a repository's own configuration.
NAMES = {
    "core.fsmonitor": "{program}",
    "core.hooksPath": "{folder}",
    "filter.own.clean": "{program}",
    "filter.own.smudge": "{program}",
    "filter.own.process": "{program}",
    "diff.external": "{program}",
    "diff.own.textconv": "{program}",
    "diff.own.command": "{program}",
    "merge.own.driver": "{program}",
    "core.sshCommand": "{program}",
    "core.pager": "{program}",
    "core.alternateRefsCommand": "{program}",
    "uploadpack.packObjectsHook": "{program}",
    "remote.origin.url": "ext::{program}",
    "remote.origin.promisor": "true",
    "remote.origin.uploadpack": "{program}",
    "extensions.partialClone": "origin",
    "gpg.program": "{program}",
    "include.path": "{program}",
}


def booby_trap(root: Path, place: Path) -> Path:
    """Have the repository name a program wherever it can; the file that shows it was run."""
    place.mkdir()
    shown = place / "shown"
    program = place / "post-index-change"
    program.write_text(f"#!/bin/sh\necho $0 >>{shown}\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    for hook in ("post-checkout", "reference-transaction", "fsmonitor-watchman"):
        (place / hook).symlink_to(program.name)
    repository = Repository(root=root)
    repository.git("config", "core.repositoryFormatVersion", "1")
    for name, value in NAMES.items():
        repository.git("config", name, value.format(program=program, folder=place))
    (root / ".git" / "info").mkdir(exist_ok=True)
    own = "* filter=own diff=own merge=own\n"
    (root / ".git" / "info" / "attributes").write_text(own, encoding="utf-8")
    for path in root.rglob("*.py"):  # so that git looks into them again
        path.touch()
    return shown


def test_a_folder_is_read_as_a_source_without_running_what_it_names(
    world: World, tmp_path: Path
) -> None:
    shown = booby_trap(world.upstream.root, tmp_path / "trap")
    tree = str(tmp_path / "tree")
    world.good("apply", "--source", str(world.upstream.root), "--tree", tree)
    assert not shown.exists(), shown.read_text(encoding="utf-8")


def test_a_tree_is_refreshed_without_running_what_it_names(world: World, tmp_path: Path) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": b"ours\n"}))
    tree = tmp_path / "tree"
    world.good("apply", "--tree", str(tree))
    shown = booby_trap(tree, tmp_path / "trap")
    world.good("refresh", "--tree", str(tree))
    assert not shown.exists(), shown.read_text(encoding="utf-8")


def test_a_borrowed_repository_says_what_the_other_one_says(tmp_path: Path) -> None:
    made = new_repository(
        tmp_path / "one", {"a.py": b"a\n", "b/c.py": b"c\n", ".gitignore": b"x\n"}
    )
    made.git("tag", "base-v9")
    made.git("pack-refs", "--all")
    made.commit({"a.py": b"changed\n"})
    made.git("tag", "two")
    other = tmp_path / "linked"
    made.git("worktree", "add", "--quiet", "-b", "more", str(other))
    for root in (made.root, other):
        (root / "x").touch()
        (root / "new.py").touch()
        with foreign.borrowed(root) as git:
            borrowed = Repository(root=root)
            there = (f"--git-dir={git}", f"--work-tree={root}")
            for command in (
                ["rev-parse", "HEAD"],
                ["tag", "--list", "--merged", "HEAD"],
                ["status", "--porcelain"],
                ["log", "--format=%H %s"],
            ):
                assert borrowed.text(*there, *command) == borrowed.text(*command)
        assert sorted(foreign.listed(root).split(b"\0")[:-1]) == [
            b".gitignore",
            b"a.py",
            b"b/c.py",
            b"new.py",
        ]


@pytest.mark.parametrize("content", ["", "gitdir: /nowhere\n", "\xff\0", "gitdir: " + "x" * 300])
def test_what_is_no_repository_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / ".git").write_text(content, encoding="latin-1")
    with pytest.raises(foreign.NotBorrowed), foreign.borrowed(tmp_path):
        pytest.fail("it was read")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TAR_OPTIONS", "--strip-components=1"),
        ("TAPE", "/nowhere"),
        ("POSIXLY_CORRECT", "1"),
        ("GIT_INDEX_FILE", "/nowhere"),
        ("GIT_CONFIG_PARAMETERS", "'core.bare'='x'"),
        ("TZ", "Asia/Kathmandu"),
        ("BASH_ENV", "/nowhere"),
    ],
)
def test_a_tree_on_the_disk_is_the_commits(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    tree = new_repository(tmp_path / "one", {"a/b.py": b"b\n", "c.sh": b"#!/bin/sh\n"})
    store.git("fetch", "--quiet", str(tree.root), "+HEAD:refs/sm12x/test")
    monkeypatch.setenv(name, value)
    target = tmp_path / "target"
    target.mkdir()
    if name.startswith("GIT_"):
        monkeypatch.delenv(name)  # __main__ takes these out; the command line is tested for it
    store.export("refs/sm12x/test", target)
    assert (target / "a" / "b.py").read_bytes() == b"b\n"
    assert sorted(path.name for path in target.iterdir()) == ["a", "c.sh"]


def test_a_files_mode_is_its_own_whatever_the_disk_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.sh").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "plain.py").write_bytes(b"")
    # As on a disk that is mounted noexec.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.X_OK)
    modes = {entry.path: entry.mode for entry in folder_entries(tmp_path)}
    assert modes == {"plain.py": "100644", "run.sh": "100755"}
    assert (tmp_path / "run.sh").stat().st_mode & stat.S_IXUSR
