# SPDX-License-Identifier: Apache-2.0
"""A patch that names a binary holds it, or is refused where it's read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipe.ground.errors import ConfigError
from recipe.objects.git import Store
from recipe.series.tree import apply_all
from tests.recipe.repo import Repository, fetched, message, read
from tests.recipe.world import World

BINARY = b"\0\1binary\n" * 9
PATHS = ["vllm/new.bin", "vllm/envs.py", "b b/\u00fc.bin"]


def without_binary(upstream: Repository, path: str) -> bytes:
    upstream.commit({path: BINARY}, message("Change it"))
    flags = ["--stdout", "--full-index", "--no-binary", "--zero-commit", "--no-signature"]
    return upstream.git("format-patch", "-1", "-k", "--no-stat", *flags)


def refused(folder: Path, content: bytes, line: bytes) -> str:
    """The reason; the error must name the line that begins with `line`."""
    with pytest.raises(ConfigError) as caught:
        read(folder, content)
    number = next(n for n, text in enumerate(content.split(b"\n"), 1) if text.startswith(line))
    prefix = f"patches/vllm/change.patch:{number}: "
    assert caught.value.what.startswith(prefix)
    return caught.value.what.removeprefix(prefix)


@pytest.mark.parametrize("path", PATHS)
def test_binary_files_differ_is_refused(tmp_path: Path, upstream: Repository, path: str) -> None:
    content = without_binary(upstream, path)
    assert "write it with --binary" in refused(tmp_path, content, b"Binary files ")


@pytest.mark.parametrize("path", PATHS)
def test_a_binary_whose_data_was_cut_is_refused(
    tmp_path: Path, upstream: Repository, path: str
) -> None:
    content = upstream.patch({path: BINARY})
    cut, found, _ = content.partition(b"GIT binary patch\n")
    assert found
    for some in (cut, cut + found):
        assert "the change isn't in the patch" in refused(tmp_path, some, b"diff --git ")


def test_a_cut_binary_would_have_applied_as_an_empty_file(
    tmp_path: Path, upstream: Repository
) -> None:
    """The case above isn't one that git refuses by itself."""
    cut = upstream.patch({"vllm/new.bin": BINARY}).partition(b"GIT binary patch\n")[0]
    upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    upstream.git("apply", "-", stdin=cut)
    assert (upstream.root / "vllm" / "new.bin").read_bytes() == b""


def test_hunks_that_were_cut_are_refused(tmp_path: Path, upstream: Repository) -> None:
    content = upstream.patch({"vllm/envs.py": b"new\n", "vllm/model.py": b"new\n"})
    cut = re.sub(rb"(?s)--- a/vllm/envs\.py.*?(?=diff --git)", b"", content)
    assert "the change isn't in the patch" in refused(tmp_path, cut, b"diff --git a/vllm/envs.py")


def test_what_has_no_hunk_by_nature_is_taken(
    tmp_path: Path, store: Store, upstream: Repository
) -> None:
    upstream.commit({"vllm/empty": b"", "vllm/gone": b"", "vllm/old name": b"x\n"})
    base = fetched(store, upstream)
    upstream.write({"vllm/gone": None, "vllm/new empty": b"", "vllm/x.bin": BINARY})
    (upstream.root / "vllm" / "model.py").chmod(0o755)
    (upstream.root / "vllm" / "old name").rename(upstream.root / "vllm" / "new name")
    patch = read(tmp_path, upstream.patch({}))
    applied = apply_all(store, base, (patch,), ())
    assert store.tree_of(applied.head) == upstream.text("rev-parse", "HEAD^{tree}")


def test_the_command_ends_with_2(world: World) -> None:
    world.add_patch("change.patch", without_binary(world.upstream, "vllm/new.bin"))
    done = world.run("plan")
    assert done.status == 2
    assert "patches/vllm/change.patch:" in done.err
    assert "the patch doesn't hold it" in done.err
    assert done.next
    assert world.index.asked == []
