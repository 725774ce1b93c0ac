# SPDX-License-Identifier: Apache-2.0
"""What a fetch brings is told as a commit, or as none; a git that is killed at it is neither."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from recipe.ground import run
from recipe.ground.errors import SourceError
from recipe.objects.git import Store, open_store


def git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgSign=false"]
    command = ["git", "-C", str(folder), *identity, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    folder = tmp_path / "upstream"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "setup.py").write_text("one\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")
    git(folder, "tag", "v1")
    git(folder, "tag", "-a", "-m", "signed off", "v1.1")
    git(folder, "tag", "-a", "-m", "a file", "v2", "HEAD:setup.py")
    git(folder, "tag", "v3", "HEAD^{tree}")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store.git")


@pytest.mark.parametrize("tag", ["v1", "v1.1"])
def test_a_tag_leads_to_its_commit(upstream: Path, store: Store, tag: str) -> None:
    commit = git(upstream, "rev-parse", "HEAD")
    assert store.fetch_commit(str(upstream), tag) == commit
    assert store.fetch_revision(str(upstream), commit) == commit


@pytest.mark.parametrize("tag", ["v2", "v3", "v4"])
def test_a_tag_of_no_commit_is_no_release(upstream: Path, store: Store, tag: str) -> None:
    with pytest.raises(SourceError, match=f"tag {tag} could not be fetched"):
        store.fetch_commit(str(upstream), tag)


@pytest.mark.parametrize("name", ["0" * 40, "f" * 40])
def test_an_id_that_is_not_there_is_no_commit(upstream: Path, store: Store, name: str) -> None:
    with pytest.raises(SourceError, match=f"commit {name} could not be fetched"):
        store.fetch_revision(str(upstream), name)


def test_a_relative_address_starts_where_the_reader_is(
    upstream: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(upstream.parent)
    assert store.fetch_commit("upstream", "v1") == git(upstream, "rev-parse", "HEAD")


@pytest.mark.parametrize("verb", ["fetch", "rev-parse"])
def test_a_git_that_is_killed_is_no_answer(
    upstream: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin" / "git"
    kill = f'case " $* " in *" {verb} "*) kill -KILL $$;; esac'
    wrapper.write_text(f'#!/bin/sh\n{kill}\nexec {shutil.which("git")} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(wrapper.parent), prepend=":")
    with pytest.raises(run.Killed, match=f"git {verb} was killed by signal 9"):
        store.fetch_commit(str(upstream), "v1")
