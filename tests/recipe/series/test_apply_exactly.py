# SPDX-License-Identifier: Apache-2.0
"""A patch applies where its whole context is, or nothing is applied at all."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from recipe.ground.errors import ApplyError
from recipe.objects.git import Store
from recipe.series.tree import apply_all
from tests.recipe import small
from tests.recipe.repo import Repository, fetched, new_repository, read


def objects(store: Store) -> set[str]:
    listed = store.text("cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    return set(listed.split())


def edited(line: int, text: bytes) -> bytes:
    lines = small.TREE["vllm/model.py"].splitlines(keepends=True)
    lines[line - 1] = text + b"\n"
    return b"".join(lines)


def test_moves_with_its_context(tmp_path: Path, store: Store, upstream: Repository) -> None:
    patch = read(tmp_path, upstream.patch({"vllm/model.py": edited(20, b"ours")}))
    moved = b"a\nb\nc\nd\ne\n" + small.TREE["vllm/model.py"]
    other = new_repository(tmp_path / "other", {**small.TREE, "vllm/model.py": moved})

    applied = apply_all(store, fetched(store, other), (patch,), ())

    assert store.read(applied.head, "vllm/model.py") == b"a\nb\nc\nd\ne\n" + edited(20, b"ours")


@pytest.mark.parametrize("line", [17, 18, 19, 21, 22, 23])
def test_one_changed_context_line_is_enough_to_refuse(
    tmp_path: Path, store: Store, upstream: Repository, line: int
) -> None:
    patch = read(tmp_path, upstream.patch({"vllm/model.py": edited(20, b"ours")}))
    drifted = {**small.TREE, "vllm/model.py": edited(line, b"drifted")}
    base = fetched(store, new_repository(tmp_path / "other", drifted))
    refs, before = store.git("for-each-ref"), objects(store)

    with pytest.raises(ApplyError) as caught:
        apply_all(store, base, (patch,), ())

    assert "patches/vllm/change.patch doesn't apply" in caught.value.what
    assert "vllm/model.py" in caught.value.what
    assert caught.value.next.startswith("python build.py apply --until vllm/change.patch --tree")
    assert store.git("for-each-ref") == refs
    assert objects(store) == before


def test_gnu_patch_would_have_taken_it_with_fuzz(tmp_path: Path, upstream: Repository) -> None:
    """The case above is one that a fuzzy tool lets through: the test isn't about a broken patch."""
    if shutil.which("patch") is None:
        pytest.skip("GNU patch is not installed")
    content = upstream.patch({"vllm/model.py": edited(20, b"ours")})
    drifted = {**small.TREE, "vllm/model.py": edited(17, b"drifted")}
    other = new_repository(tmp_path / "other", drifted)
    done = subprocess.run(
        ["patch", "-p1", "--fuzz=2"], cwd=other.root, input=content, capture_output=True, check=True
    )
    assert b"with fuzz" in done.stdout


def test_a_later_patch_that_fails_leaves_nothing_of_the_earlier(
    tmp_path: Path, store: Store, upstream: Repository
) -> None:
    base = fetched(store, upstream)
    first = read(tmp_path, upstream.patch({"vllm/envs.py": b"new\n"}), "first.patch")
    upstream.git("reset", "--quiet", "--hard", base)
    upstream.commit({"vllm/model.py": edited(20, b"elsewhere")})
    second = read(tmp_path, upstream.patch({"vllm/model.py": edited(20, b"no")}), "second.patch")
    refs = store.git("for-each-ref")

    with pytest.raises(ApplyError, match=r"vllm/second\.patch"):
        apply_all(store, base, (first, second), ())

    assert store.git("for-each-ref") == refs
    assert apply_all(store, base, (first,), ()).changes[0].path == "vllm/envs.py"


def test_two_hunks_of_which_one_fails_change_nothing(
    tmp_path: Path, store: Store, upstream: Repository
) -> None:
    both = edited(5, b"first").replace(b"line 35\n", b"second\n")
    patch = read(tmp_path, upstream.patch({"vllm/model.py": both}))
    drifted = {**small.TREE, "vllm/model.py": edited(34, b"drifted")}
    base = fetched(store, new_repository(tmp_path / "other", drifted))

    with pytest.raises(ApplyError, match=r"model\.py:32"):
        apply_all(store, base, (patch,), ())


def test_every_patch_is_a_commit_with_its_own_author_and_message(
    tmp_path: Path, store: Store, upstream: Repository
) -> None:
    base = fetched(store, upstream)
    one = read(tmp_path, upstream.patch({"vllm/envs.py": b"1\n"}, "First"), "one.patch")
    two = read(tmp_path, upstream.patch({"vllm/envs.py": b"2\n"}, "Second"), "two.patch")

    applied = apply_all(store, base, (one, two), ())

    log = store.text("log", "--format=%an|%ae|%s", f"{base}..{applied.head}").splitlines()
    who = "vllm-sm12x maintainers|maintainers@vllm-sm12x.example"
    assert log == [f"{who}|Second", f"{who}|First"]
    assert [path for path, _ in applied.commits] == ["vllm/one.patch", "vllm/two.patch"]
