# SPDX-License-Identifier: Apache-2.0
"""Generated series: git am, GNU patch and quilt make of them what the recipe makes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import assume, given

from recipe.objects.git import IDENTITY, ISOLATED
from recipe.series.export import beyond_quilt, export_git, export_quilt
from recipe.series.topics import Series
from tests.recipe.edits import History, few, histories
from tests.recipe.history import LOG, Made, made, no_conversion, read_tree, write_tree
from tests.recipe.repo import AM

COMMITTER = {"GIT_COMMITTER_NAME": IDENTITY[0], "GIT_COMMITTER_EMAIL": IDENTITY[1]}


def series_of(there: Made) -> Series:
    return Series(topics=(), patches=there.patches, files=(), digest="")


@few(20)
@given(history=histories())
def test_git_am_makes_the_very_same_commits(history: History) -> None:
    with made(history) as there:
        store = there.store()
        applied = there.applied(store)

        log = store.git("log", LOG, "--date=raw", f"{there.base}..{applied.head}")
        assert log.decode() == there.log().decode()

        mails = there.folder / "mails"
        names = export_git(store, series_of(there), applied, mails)
        git_am(there, *(str(mails / name) for name in names))
        assert there.repository.text("rev-parse", "HEAD") == applied.head


def git_am(there: Made, *mails: str) -> None:
    no_conversion(there.repository)
    there.repository.git("reset", "--quiet", "--hard", there.base)
    subprocess.run(
        ["git", *AM, *mails],
        cwd=there.repository.root,
        env={**os.environ, **ISOLATED, **COMMITTER},
        check=True,
        capture_output=True,
    )


@pytest.mark.skipif(shutil.which("patch") is None, reason="GNU patch is not installed")
@few(20)
@given(history=histories())
def test_gnu_patch_makes_the_same_files(history: History) -> None:
    with made(history) as there:
        assume(not any(list(beyond_quilt(patch)) for patch in there.patches))
        store = there.store()
        applied = there.applied(store)
        work = there.folder / "work"
        write_tree(work, history.base)

        for patch in there.patches:
            gnu_patch(work, patch.content)

        assert read_tree(work) == history.trees[-1]
        assert store.tree_of(applied.head) == there.tree


def gnu_patch(work: Path, content: bytes) -> None:
    command = ["patch", "-p1", "--fuzz=0", "--force", "--no-backup-if-mismatch"]
    done = subprocess.run(command, cwd=work, input=content, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")


@pytest.mark.skipif(shutil.which("quilt") is None, reason="quilt is not installed")
@few(8)
@given(history=histories())
def test_quilt_pushes_and_pops_an_export(history: History) -> None:
    with made(history) as there:
        assume(not any(list(beyond_quilt(patch)) for patch in there.patches))
        store = there.store()
        applied = there.applied(store)
        folder = there.folder / "quilt"
        export_quilt(store, series_of(there), applied, folder)
        work = there.folder / "work"
        write_tree(work, history.base)

        quilt(work, folder, "push", "-a", "--fuzz=0")
        assert read_tree(work, without=".pc") == history.trees[-1]
        # -f: where a file is newer than the push, quilt first looks for changes by a diff that
        # fails on odd names ("-d/x", with quotes); that there are none was asserted just now.
        quilt(work, folder, "pop", "-a", "-f")
        # quilt keeps a file that was empty as it keeps one that wasn't there: pop removes both.
        emptied = {name for tree in history.trees for name in tree if tree[name].content == b""}
        left, wanted = read_tree(work, without=".pc"), history.base
        assert {n: f for n, f in left.items() if n not in emptied} == {
            n: f for n, f in wanted.items() if n not in emptied
        }


def quilt(work: Path, patches: Path, *words: str) -> None:
    command = ["quilt", "--quiltrc=-", *words]
    env = {**os.environ, "QUILT_PATCHES": str(patches)}
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
