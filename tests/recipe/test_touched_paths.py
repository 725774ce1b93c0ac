# SPDX-License-Identifier: Apache-2.0
"""The paths we read out of a patch are those that git itself says the patch changes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe.git import open_store
from recipe.tree import apply_all
from tests.recipe.repo import AM, Repository, fetched, message, new_repository, numbered, read

TREE = {
    "plain.py": numbered(12),
    "sub/deep.txt": b"--- a/x\n+++ b/y\n@@ -1 +1 @@\ndiff --git a/x b/x\n" * 3,
    "no-newline": b"one\ntwo",
    "crlf.txt": b"a\r\nb\r\nc\r\n",
    "binary.bin": bytes(range(256)) * 3,
    "with blank.py": numbered(8),
    "m\u00fcll \u4e16.py": numbered(8),
    'quo"te\\back.py': numbered(8),
    "tab\there.py": numbered(8),
    "empty": b"",
    "run.sh": b"#!/bin/sh\n",
}
LINES = st.sampled_from(
    [
        b"x\n",
        b"\n",
        b"\r\n",
        b"---\n",
        b"-- \n",
        b"--- a/evil\n",
        b"+++ b/evil\n",
        b"diff --git a/e b/e\n",
        b"@@ -1,3 +1,3 @@\n",
        b"rename to ../evil\n",
        b"x\r--- a/../evil\n",
        b"From x\n",
        b"\xff\xfe\n",
    ]
)
NAMES = st.sampled_from(sorted(TREE))
NEW = st.sampled_from(["new.py", "new dir/\u00e9.py", "b b/a a.py", "a/b/c", "n\x01e\x07w"])
CONTENT = st.lists(LINES, max_size=6).map(b"".join) | st.binary(max_size=60)
ACTION = st.one_of(
    st.tuples(st.just("edit"), NAMES, st.integers(0, 12), st.lists(LINES, max_size=3)),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(st.just("create"), NEW, CONTENT),
    st.tuples(st.just("rename"), NAMES, NEW),
    st.tuples(st.just("mode"), NAMES),
    st.tuples(st.just("rewrite"), NAMES, CONTENT),
    st.tuples(st.just("chop"), NAMES),
)


def act(root: Path, action: tuple[object, ...]) -> None:
    kind, name, *rest = action
    path = root / str(name)
    if kind == "create":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rest[0])  # type: ignore[arg-type]
        return
    if not path.exists():
        return
    if kind == "edit":
        lines = path.read_bytes().splitlines(keepends=True)
        at, new = rest
        assert isinstance(at, int)
        assert isinstance(new, list)
        lines[at : at + 1] = new
        path.write_bytes(b"".join(lines))
    elif kind == "delete":
        path.unlink()
    elif kind == "rename":
        target = root / str(rest[0])
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    elif kind == "mode":
        path.chmod(path.stat().st_mode ^ 0o111)
    elif kind == "rewrite":
        path.write_bytes(rest[0])  # type: ignore[arg-type]
    else:
        path.write_bytes(path.read_bytes()[:-1])


def numstat(repository: Repository, content: bytes) -> set[str]:
    """Old and new paths of a patch as `git apply --numstat -z` names them."""
    found: set[str] = set()
    raw = repository.git("apply", "--numstat", "-z", "-", stdin=content)
    for row in raw.split(b"\0"):
        if row:
            found.add(row.split(b"\t", 2)[2].decode("utf-8", "replace"))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=st.lists(ACTION, min_size=1, max_size=5), renames=st.booleans())
def test_agrees_with_git_and_applies_like_git_am(
    actions: list[tuple[object, ...]], renames: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream = new_repository(folder / "upstream", TREE)
        base = upstream.text("rev-parse", "HEAD")
        for action in actions:
            act(upstream.root, action)
        upstream.commit({}, message("Change it", Components="none"))
        changed = upstream.git("diff", "--name-only", "--no-renames", "-z", base, "HEAD")
        if not changed:
            return
        content = upstream.format_patch("--find-renames" if renames else "--no-renames")

        patch = read(folder, content)

        expected = {name.decode() for name in changed.split(b"\0") if name}
        assert set(patch.touched) == expected
        assert numstat(upstream, content) <= set(patch.touched)
        store = open_store(folder / "store.git")
        upstream.git("reset", "--quiet", "--hard", base)
        upstream.git("clean", "-fdq")
        applied = apply_all(store, fetched(store, upstream), (patch,), ())
        upstream.git(*AM, str(folder / "patches" / patch.path))
        assert store.tree_of(applied.head) == upstream.text("rev-parse", "HEAD^{tree}")
