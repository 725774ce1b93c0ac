# SPDX-License-Identifier: Apache-2.0
"""A message is read as git am reads it, and refused where git am or GNU patch wouldn't keep it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from recipe.ground.errors import ConfigError
from recipe.objects.git import Store
from recipe.series.tree import apply_all
from tests.recipe.repo import AM, FORMAT, Repository, fetched, message, read

DATE_LINE = "Mon Sep 17 00:00:00 2001"


def mail(upstream: Repository, subject: str, body: str, *author: str) -> bytes:
    """A patch of the first commit whose message git took as it stands."""
    upstream.git("reset", "--quiet", "--hard", upstream.text("rev-list", "--max-parents=0", "HEAD"))
    text = message(f"{subject}\n\n{body}")
    upstream.write({"vllm/envs.py": b"new\n"})
    (upstream.root / "vllm" / "envs.py").chmod(0o755)
    upstream.git(
        "commit",
        "-a",
        "-F-",
        "--cleanup=verbatim",
        *author,
        stdin=text.encode(),
    )
    return upstream.git("format-patch", "-1", "-k", *FORMAT)


def kept_by_git_am(upstream: Repository, content: bytes) -> bool:
    """Whether git am makes the commit again, message and all."""
    wanted = upstream.git("log", "-1", "--format=%T%n%an%n%B")
    upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    try:
        upstream.git(*AM, stdin=content)
    except subprocess.CalledProcessError:
        upstream.git("am", "--quit")
        return False
    return upstream.git("log", "-1", "--format=%T%n%an%n%B") == wanted


def kept_by_git_apply(upstream: Repository, content: bytes) -> bool:
    upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    try:
        upstream.git("apply", "--check", "-", stdin=content)
    except subprocess.CalledProcessError:
        return False
    return True


def kept_by_gnu_patch(upstream: Repository, content: bytes) -> bool:
    upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    command = ["patch", "-p1", "--fuzz=0", "--force", "--dry-run"]
    done = subprocess.run(
        command, cwd=upstream.root, input=content, capture_output=True, check=False
    )
    return done.returncode == 0


def refused(folder: Path, content: bytes, wrong: str) -> str:
    """The reason; the error must name the line of `wrong`."""
    with pytest.raises(ConfigError) as caught:
        read(folder, content)
    line = next(n for n, text in enumerate(content.decode().split("\n"), 1) if wrong in text)
    assert caught.value.what.startswith(f"patches/vllm/change.patch:{line}: ")
    return caught.value.what


@pytest.mark.parametrize(
    "subject",
    [
        "[PATCH] x",
        "[PATCH 2/3] x",
        "[a] [PATCH v2] x",
        "Re: x",
        "re: x",
        "[a] Re: x",
        ": x",
        "two  blanks",
        "a\ttab",
    ],
)
def test_a_subject_that_git_am_changes_is_refused(
    tmp_path: Path, upstream: Repository, subject: str
) -> None:
    content = mail(upstream, subject, "Why.")
    assert "git am would change the subject" in refused(tmp_path, content, "Subject: ")
    assert not kept_by_git_am(upstream, content)


@pytest.mark.parametrize(
    "subject",
    [
        "[a] x",
        "[a][b] x",
        "[a]x",
        "[unclosed x",
        'Revert "[PATCH] x"',
        "Rename x",
        "x: [PATCH] y",
        "=?UTF-8?q?x?= y",
        "word " * 40 + "end",
        "\u00fc " + "w\u00f6rd " * 40 + "end",
        "x" * 200,
    ],
)
def test_a_subject_that_git_am_keeps_is_read_as_it_is(
    tmp_path: Path, upstream: Repository, subject: str
) -> None:
    content = mail(upstream, subject, "Why.")
    assert read(tmp_path, content).subject == subject
    assert kept_by_git_am(upstream, content)


@pytest.mark.parametrize(
    "line",
    [
        "---",
        "--- a/x",
        "diff -u x y",
        "Index: x",
        f"From {'0' * 40} {DATE_LINE}",
        "\nsecond blank line",
    ],
)
def test_a_line_that_git_am_cuts_or_changes_is_refused(
    tmp_path: Path, upstream: Repository, line: str
) -> None:
    content = mail(upstream, "Subject", f"Why.\n\n{line}\n\nmore")
    with pytest.raises(ConfigError, match=r"change\.patch:\d+: .*git am"):
        read(tmp_path, content)
    assert not kept_by_git_am(upstream, content)


def test_blanks_at_the_end_of_a_line_are_refused(tmp_path: Path, upstream: Repository) -> None:
    """git writes none into a mail, so somebody's editor did."""
    content = mail(upstream, "Subject", "Why.\n\nmore").replace(b"Why.\n", b"Why. \t\n")
    assert "git am takes the blanks" in refused(tmp_path, content, "Why. \t")
    assert kept_by_git_am(upstream, content)  # the commit without them


@pytest.mark.parametrize(
    "line", ["From: X <x@y>", "subject: x", "Date: x", "[PATCH] x", f">From {'0' * 40} {DATE_LINE}"]
)
def test_a_first_line_that_git_am_takes_for_a_field_is_refused_there_alone(
    tmp_path: Path, upstream: Repository, line: str
) -> None:
    content = mail(upstream, "Subject", f"{line}\n\nmore")
    assert "takes it for a field of the mail" in refused(tmp_path, content, line)
    assert not kept_by_git_am(upstream, content)

    content = mail(upstream, "Subject", f"Why.\n\n{line}\n\nmore")
    assert f"\n{line}\n" in read(tmp_path, content).message
    assert kept_by_git_am(upstream, content)


def test_a_hunk_in_the_message_is_refused_as_git_apply_does(
    tmp_path: Path, upstream: Repository
) -> None:
    content = mail(upstream, "Subject", "Why.\n\n@@ -1 +1 @@\n-a\n+b")
    assert "a part of the diff: put > before it" in refused(tmp_path, content, "@@ -1 +1 @@")
    assert not kept_by_git_apply(upstream, content)


@pytest.mark.skipif(shutil.which("patch") is None, reason="GNU patch is not installed")
@pytest.mark.parametrize(
    "lines",
    [
        "  --- x\n  +++ x\n  @@ -1 +1 @@\n  -a\n  +b",
        "*** x\n***************\n*** 1 ****",
        "  diff --git a/x b/x\nindex 123..456\n  +++ b/x",
        "5d\n+++ b/x\n> a",
    ],
)
def test_a_diff_in_the_message_is_refused_that_gnu_patch_would_apply(
    tmp_path: Path, upstream: Repository, lines: str
) -> None:
    content = mail(upstream, "Subject", f"Why.\n\n{lines}")
    with pytest.raises(ConfigError, match="a part of the diff: put > before it"):
        read(tmp_path, content)
    assert not kept_by_gnu_patch(upstream, content)

    quoted = "\n".join(f"> {line.strip()}" for line in lines.split("\n"))
    content = mail(upstream, "Subject", f"Why.\n\n{quoted}")
    read(tmp_path, content)
    assert kept_by_gnu_patch(upstream, content)


@pytest.mark.parametrize("name", ['Dwayne "The Rock" J', "Dr. No, Jr", "back\\slash", "\u00fc (x)"])
def test_an_authors_name_is_the_commits(
    tmp_path: Path, store: Store, upstream: Repository, name: str
) -> None:
    base = fetched(store, upstream)
    patch = read(tmp_path, mail(upstream, "Subject", "Why.", f"--author={name} <x@y.example>"))
    head = apply_all(store, base, (patch,), ()).head
    assert store.text("log", "-1", "--format=%an|%ae", head) == f"{name}|x@y.example"
