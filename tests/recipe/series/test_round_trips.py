# SPDX-License-Identifier: Apache-2.0
"""What is read is written again as it was: patches, exports, trees. A hunk moves whole or not."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.ground.errors import ApplyError
from recipe.objects.archive import import_entries
from recipe.objects.gate.folder import folder_entries
from recipe.objects.gate.names import Entry
from recipe.objects.gate.tar import tar_entries
from recipe.objects.git import ISOLATED, open_store
from recipe.objects.hunks import count_lines
from recipe.series.export import export_git
from recipe.series.lint import check_form
from recipe.series.topics import Series
from recipe.series.tree import apply_all
from tests.recipe.edits import ODD_LINES, Edit, File, History, Tree, few, histories, trees
from tests.recipe.history import Made, made, no_conversion, read_tree, write_tree
from tests.recipe.repo import Repository
from tests.recipe.series.test_apply_exactly import objects

NAME = "file.txt"
PLAIN = "Plain Name <plain@x.example>"


@few(12)
@given(history=histories())
def test_a_patch_is_written_again_byte_for_byte(history: History) -> None:
    with made(history) as there:
        store = there.store()
        applied = there.applied(store)

        for patch, (name, commit) in zip(there.patches, applied.commits, strict=True):
            assert name == patch.path
            assert store.format_patch(commit) == patch.content
            check_form(patch)
            assert count_lines(patch.content) == numstat(there.repository, patch.content)

        series = Series(topics=(), patches=there.patches, files=(), digest="")
        folders = [there.folder / name for name in ("first", "second")]
        for folder in folders:
            export_git(store, series, applied, folder)
        first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
        assert first == second
        assert list(dict(sorted(first.items())).values()) == [p.content for p in there.patches]


def numstat(repository: Repository, content: bytes) -> tuple[int, int]:
    """Added and removed lines as git counts them; a binary file has a dash for both."""
    rows = repository.git("apply", "--numstat", "-", stdin=content).split(b"\n")[:-1]
    counts = [row.split(b"\t")[:2] for row in rows]
    added, removed = (sum(int(row[side]) for row in counts if row[side] != b"-") for side in (0, 1))
    return added, removed


@st.composite
def one_hunk(draw: st.DrawFn) -> tuple[Tree, Tree, int]:
    """A file of lines that differ, the file with a line replaced, and that line's number."""
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    lines = [
        b"%d %s%s" % (number, odd.replace(b"\r", b""), end)
        for number, odd in enumerate(draw(st.lists(st.sampled_from(ODD_LINES), min_size=3)))
    ]
    if draw(st.booleans()):
        lines[-1] = lines[-1].removesuffix(end)
    at = draw(st.integers(0, len(lines) - 1))
    before = b"".join(lines)
    lines[at : at + 1] = draw(st.sampled_from([[], [b"ours" + end], [b"1" + end, b"2" + end]]))
    return {NAME: File(content=before)}, {NAME: File(content=b"".join(lines))}, at


def one_edit(before: Tree, after: Tree) -> History:
    edit = Edit(tree=after, subject="S", body="", author=PLAIN, date="1700000000 +0000")
    return History(base=before, edits=(edit,))


def by_git_apply(folder: Path, tree: Tree, patch: bytes) -> Tree | None:
    """What git apply makes of a folder; None if it refuses, and then nothing may have changed."""
    write_tree(folder, tree)
    command = ["git", "apply", "--whitespace=nowarn", "-"]
    env = {**os.environ, **ISOLATED, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(
        command, cwd=folder, input=patch, env=env, capture_output=True, check=False
    )
    if done.returncode != 0:
        assert read_tree(folder) == tree
        return None
    return read_tree(folder)


def by_gnu_patch(folder: Path, tree: Tree, patch: bytes) -> Tree | None:
    """The same for GNU patch without fuzz, which leaves its rejects beside the file."""
    write_tree(folder, tree)
    command = ["patch", "-p1", "--fuzz=0", "--force", "--no-backup-if-mismatch", "--reject-file=-"]
    done = subprocess.run(command, cwd=folder, input=patch, capture_output=True, check=False)
    if done.returncode != 0:
        assert read_tree(folder) == tree
        return None
    return read_tree(folder)


def by_recipe(there: Made, tree: Tree) -> Tree | None:
    """The same for the recipe."""
    store = open_store(there.folder / "other.git")
    entries = [Entry(path=name, mode="100644", content=tree[name].content) for name in tree]
    base = import_entries(store, iter(entries), "refs/sm12x/test", "other\n")
    before = objects(store), store.git("for-each-ref")
    try:
        applied = apply_all(store, base, there.patches, ())
    except ApplyError:
        assert (objects(store), store.git("for-each-ref")) == before
        return None
    out = there.folder / "out"
    out.mkdir()
    store.export(applied.head, out)
    return read_tree(out)


@pytest.mark.skipif(shutil.which("patch") is None, reason="GNU patch is not installed")
@few(12)
@given(edit=one_hunk(), above=st.integers(1, 5))
def test_a_hunk_moves_as_it_does_for_git_apply(edit: tuple[Tree, Tree, int], above: int) -> None:
    before, after, at = edit
    moved = {NAME: File(content=b"moved\n" * above + before[NAME].content)}
    with made(one_edit(before, after)) as there:
        content = there.patches[0].content
        found = by_recipe(there, moved)
        assert found == by_git_apply(there.folder / "git", moved, content)
        # A hunk with less context above than below belongs to the beginning of the file.
        if at > 3:
            assert found == {NAME: File(content=b"moved\n" * above + after[NAME].content)}
        if found is not None:
            assert found == by_gnu_patch(there.folder / "gnu", moved, content)


@pytest.mark.skipif(shutil.which("patch") is None, reason="GNU patch is not installed")
@few(12)
@given(edit=one_hunk(), data=st.data())
def test_one_line_of_context_that_differs_is_refused_by_all(
    edit: tuple[Tree, Tree, int], data: st.DataObject
) -> None:
    before, after, at = edit
    lines = before[NAME].content.splitlines(keepends=True)
    context = [n for n in range(max(0, at - 3), min(len(lines), at + 4)) if n != at]
    lines[data.draw(st.sampled_from(context))] = b"drifted\n"
    drifted = {NAME: File(content=b"".join(lines))}
    with made(one_edit(before, after)) as there:
        content = there.patches[0].content
        assert by_git_apply(there.folder / "same", before, content) == after
        assert by_recipe(there, drifted) is None
        assert by_git_apply(there.folder / "git", drifted, content) is None
        assert by_gnu_patch(there.folder / "gnu", drifted, content) is None


@few(15)
@given(tree=trees())
def test_an_archive_has_the_tree_that_git_add_makes_of_its_files(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        top = folder / "vllm-1"
        write_tree(top, tree)
        archive = folder / "vllm-1.tar.gz"
        subprocess.run(["tar", "-czf", str(archive), "vllm-1"], cwd=folder, check=True)
        store = open_store(folder / "store.git")

        packed = import_entries(store, tar_entries(archive), "refs/sm12x/packed", "vllm 1\n")
        plain = import_entries(store, folder_entries(top), "refs/sm12x/plain", "vllm 1\n")

        oracle = Repository(root=top)
        oracle.git("init", "--quiet")
        no_conversion(oracle)
        oracle.git("add", "--all", "--force")
        assert store.tree_of(packed) == store.tree_of(plain) == oracle.text("write-tree")
        out = folder / "out"
        out.mkdir()
        store.export(packed, out)
        assert read_tree(out) == tree


def test_a_tree_is_written_as_it_is_whatever_its_attributes_say(tmp_path: Path) -> None:
    attributes = b"*.txt text eol=crlf\ngone export-ignore\nid export-subst ident\n"
    contents = {".gitattributes": attributes, "a.txt": b"a\n", "gone": b"x\n"}
    contents["id"] = b"$Format:%H$ $Id$\n"
    tree = {name: File(content=content) for name, content in contents.items()}
    store = open_store(tmp_path / "store.git")
    entries = [Entry(path=name, mode="100644", content=tree[name].content) for name in tree]
    commit = import_entries(store, iter(entries), "refs/sm12x/test", "tree\n")
    out = tmp_path / "out"
    out.mkdir()

    store.export(commit, out)

    assert read_tree(out) == tree
