# SPDX-License-Identifier: Apache-2.0
"""A patch's header is read, or the error names the file and the line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.version import Version

from recipe.ground.errors import ConfigError
from recipe.series.patch import Patch
from tests.recipe.repo import AUTHOR, Repository, read

EDIT: dict[str, bytes | None] = {"vllm/envs.py": b"new\n"}


def line_with(content: bytes, needle: str) -> int:
    lines = content.decode().splitlines()
    return next(number for number, line in enumerate(lines, 1) if needle in line)


def refused(folder: Path, content: bytes) -> tuple[int, str]:
    """(line, reason) of the refusal."""
    with pytest.raises(ConfigError) as caught:
        read(folder, content)
    match = re.fullmatch(r"patches/vllm/change\.patch:(\d+): (.*)", caught.value.what, re.DOTALL)
    assert match is not None, caught.value.what
    assert caught.value.next.startswith("mend the header of patches/vllm/change.patch")
    return int(match[1]), match[2]


def test_reads_what_the_header_says(tmp_path: Path, upstream: Repository) -> None:
    content = upstream.patch(
        EDIT,
        "Change [one] thing",
        Topic="one-thing",
        Bases=">=0.20,<0.23",
        Applied_Upstream="0.24.0",
        Not_Needed="==0.23.*",
        Drop_When="upstream >= 0.24",
        Tests="tests/patched/test_a.py, tests/patched/test_b.py",
    )

    patch = read(tmp_path, content)

    assert patch.subject == "Change [one] thing"
    assert patch.author == AUTHOR
    assert patch.message.startswith("Change [one] thing\n\nWhy it is needed.\n\nTopic: one-thing\n")
    assert patch.topic == "one-thing"
    assert patch.bases.contains("0.22.1")
    assert not patch.bases.contains("0.23.0")
    assert patch.applied_upstream == Version("0.24.0")
    assert patch.not_needed is not None
    assert patch.not_needed.contains("0.23.1")
    assert patch.tests == ("tests/patched/test_a.py", "tests/patched/test_b.py")
    assert patch.touched == ("vllm/envs.py",)
    assert patch.upstream == "vllm"
    assert patch.content == content


def test_a_long_subject_and_other_letters_are_unfolded(
    tmp_path: Path, upstream: Repository
) -> None:
    subject = "Ändere " + "sehr " * 30 + "viel"
    assert read(tmp_path, upstream.patch(EDIT, subject)).subject == subject


@pytest.mark.parametrize("name", ["Topic", "Bases", "Origin", "Forwarded", "Tests"])
def test_a_missing_trailer_is_named(tmp_path: Path, upstream: Repository, name: str) -> None:
    _, why = refused(tmp_path, upstream.patch(EDIT, **{name: ""}))
    assert why == f"the trailer {name}: is missing"


@pytest.mark.parametrize(
    ("trailers", "at", "said"),
    [
        ({"Bases": "0.20 to 0.23"}, "Bases:", "Bases: Invalid specifier"),
        ({"Applied_Upstream": "soon"}, "Applied-Upstream:", "Invalid version"),
        ({"Not_Needed": "never"}, "Not-Needed:", "Invalid specifier"),
        ({"Topic": "Two Words"}, "Topic:", "use lower-case letters"),
        ({"Colour": "red"}, "Colour:", "unknown trailer Colour"),
    ],
)
def test_a_malformed_trailer_is_named_with_its_line(
    tmp_path: Path, upstream: Repository, trailers: dict[str, str], at: str, said: str
) -> None:
    content = upstream.patch(EDIT, **trailers)
    line, why = refused(tmp_path, content)
    assert said in why
    assert line == line_with(content, at)


def test_a_line_that_is_no_trailer_is_named_with_its_line(
    tmp_path: Path, upstream: Repository
) -> None:
    content = upstream.patch(EDIT).replace(b"\nOrigin: vendor\n", b"\nOrigin is vendor\n")
    line, why = refused(tmp_path, content)
    assert line == line_with(content, "Origin is vendor")
    assert "not a trailer" in why


def test_a_trailer_that_stands_twice_is_refused(tmp_path: Path, upstream: Repository) -> None:
    content = upstream.patch(EDIT).replace(b"\nTests:", b"\nOrigin: vendor\nTests:")
    line, why = refused(tmp_path, content)
    assert why == "Origin stands twice"
    assert line == line_with(content, "Tests: ") - 1


def test_a_line_of_the_message_like_a_trailer_doesnt_get_the_blame(
    tmp_path: Path, upstream: Repository
) -> None:
    subject = "Change it\n\nBases: are the releases.\nColour: red"
    for trailers, at in (
        ({"Bases": "soon"}, "Bases: soon"),
        ({"Colour": "red, too"}, "Colour: red,"),
    ):
        content = upstream.patch(EDIT, subject, **trailers)
        upstream.git("reset", "--quiet", "--hard", "HEAD~1")
        assert refused(tmp_path, content)[0] == line_with(content, at)


@pytest.mark.parametrize("field", [b"From", b"Date", b"Subject"])
def test_a_missing_mail_field_is_named(tmp_path: Path, upstream: Repository, field: bytes) -> None:
    content = re.sub(rb"(?m)^%s: .*\n" % field, b"", upstream.patch(EDIT))
    _, why = refused(tmp_path, content)
    assert why == f"the mail header has no {field.decode()}: line"


def test_a_patch_without_a_diff_is_refused(tmp_path: Path, upstream: Repository) -> None:
    content = upstream.patch(EDIT).partition(b"diff --git")[0]
    _, why = refused(tmp_path, content)
    assert "it changes nothing" in why


def test_a_header_that_is_not_utf8_is_refused(tmp_path: Path, upstream: Repository) -> None:
    content = upstream.patch(EDIT).replace(b"Why it", b"Why \xff it")
    line, why = refused(tmp_path, content)
    assert "not UTF-8" in why
    assert content.split(b"\n")[line - 1].startswith(b"Why \xff")


@pytest.mark.parametrize(
    "path", ["CMakeLists.txt", "cmake/utils.cmake", "csrc/kernel.cu", "vllm/x.cpp", "rust/a.rs"]
)
def test_a_change_only_a_compile_carries_must_name_components(
    tmp_path: Path, upstream: Repository, path: str
) -> None:
    content = upstream.patch({path: b"ours\n"})
    _, why = refused(tmp_path, content)
    assert path in why
    assert "no Components: trailer" in why

    named = content.replace(b"\nTests:", b"\nComponents: _C, _moe_C\nTests:")
    patch: Patch = read(tmp_path, named)
    assert patch.components == ("_C", "_moe_C")
    assert patch.native_paths() == (path,)
    none = content.replace(b"\nTests:", b"\nComponents: none\nTests:")
    assert read(tmp_path, none).components == ()


@pytest.mark.parametrize(
    "bad", ["../outside", "/etc/passwd", "a/../../b", ".git/hooks/x", "a/.git"]
)
@pytest.mark.parametrize("side", ["---", "+++"])
def test_a_path_that_leaves_the_tree_is_refused(
    tmp_path: Path, upstream: Repository, bad: str, side: str
) -> None:
    prefix = "a/" if side == "---" else "b/"
    content = upstream.patch(EDIT)
    good = f"{side} {prefix}vllm/envs.py\n".encode()
    assert good in content
    changed = content.replace(good, f"{side} {prefix}{bad}\n".encode())
    line, why = refused(tmp_path, changed)
    assert "leaves the tree" in why
    assert line == line_with(changed, f"{side} {prefix}{bad}")


def test_a_rename_out_of_the_tree_is_refused(tmp_path: Path, upstream: Repository) -> None:
    upstream.git("mv", "vllm/envs.py", "vllm/knobs.py")
    content = upstream.patch({})
    assert b"rename to vllm/knobs.py" in content
    changed = content.replace(b"rename to vllm/knobs.py", b"rename to ../knobs.py")
    _, why = refused(tmp_path, changed)
    assert "leaves the tree" in why
