# SPDX-License-Identifier: Apache-2.0
"""What a fetch brought is told as the commit that it leads to, or as none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipe.ground.errors import SourceError
from recipe.objects.fetched import NoCommit, fetched_commit
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
    assert fetched_commit(store.path, commit) == commit


@pytest.mark.parametrize("tag", ["v2", "v3", "v4"])
def test_a_tag_of_no_commit_is_no_release(upstream: Path, store: Store, tag: str) -> None:
    with pytest.raises(SourceError, match=f"tag {tag} could not be fetched"):
        store.fetch_commit(str(upstream), tag)


@pytest.mark.parametrize("name", ["0" * 40, "f" * 40, "refs/sm12x/tags/none", "no such name"])
def test_a_name_that_leads_nowhere_is_no_commit(store: Store, name: str) -> None:
    with pytest.raises(NoCommit):
        fetched_commit(store.path, name)


def test_another_repository_of_the_caller_is_not_asked(
    upstream: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(upstream, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(upstream / ".git"))
    with pytest.raises(NoCommit):
        fetched_commit(store.path, commit)
