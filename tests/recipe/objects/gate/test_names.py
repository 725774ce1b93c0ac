# SPDX-License-Identifier: Apache-2.0
"""One gate for every name, mode and link that enters a tree."""

from __future__ import annotations

import subprocess
import unicodedata

import pytest

from recipe.ground.errors import SourceError
from recipe.objects.gate.names import (
    LARGEST_FILE,
    Entry,
    Gate,
    escaped,
    folded,
    wrong_file_name,
    wrong_with,
)
from recipe.objects.git import Store

GIT = (
    *(".git", ".GIT", "a/.Git/config", ".gi\u200ct", "\u206a.git", ".g\u200eit", ".git\ufeff"),
    *("git~1", "GIT~1/config", "git~2", ".git.", ".git ", ".git. . ./config"),
    *(
        ".git::$INDEX_ALLOCATION",
        ".git:config",
        "a/.git :x",
        "\uff0egit",
        "\uff0e\uff27\uff29\uff34",
    ),
    *("\u2024git", ".g\u00adit", ".gi\ufe0ft", "\u180e.git"),
)
LEAVING = ("..", "../a", "a/../../b", "a/..", "/etc/passwd", "//a", "C:/a", "c:a", "\u2025/a")
LETTERS = (
    *("a\nb", "a\rb", "a\0b", "a\tb", "\x1b[2J", "a\x7f", "a\x85b", "a\u2028b", "a\u202egpj.py"),
    *("caf\udce9", "a\\b", "\u200b"),
)
FORMS = (
    "",
    "a//b",
    "a/",
    "./a",
    "a/./b",
    "...",
    "a/. ./b",
    "a" * 256,
    "\u00e9" * 128,
    "a/" * 64 + "a",
)
GOOD = (
    *("a", ".gitignore", ".gitmodules", ".github/x", "a.git", "git", "git~", "x.git/y", "-rf"),
    *(
        "with blank.py",
        'quo"te',
        "m\u00fcll.py",
        "mu\u0308ll.py",
        "\u4e16\u754c",
        "\U0001f600",
        "a,b",
    ),
    *("[a]*?", ":(top)x", "#hash", "a => b", "a..b", "..a", "a" * 255, "a/" * 63 + "a", "ab:c"),
)


@pytest.mark.parametrize("name", [*GIT, *LEAVING, *LETTERS, *FORMS], ids=ascii)
def test_a_name_that_is_more_than_a_file_of_its_own_is_refused(name: str) -> None:
    assert wrong_with(name)


@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_a_name_that_is_only_unusual_is_taken(name: str) -> None:
    assert wrong_with(name) is None


@pytest.mark.parametrize("name", [name for name in GIT if not set(name) & set("\ufe0f\u00ad")])
def test_whatever_git_takes_for_its_own_folder_is_refused(store: Store, name: str) -> None:
    """git's own answer, with both of its protections on: what it refuses, the gate refuses too."""
    blob = store.git("hash-object", "-w", "--stdin", stdin=b"x").decode().strip()
    protected = ("-c", "core.protectHFS=true", "-c", "core.protectNTFS=true")
    row = f"100644 {blob}\t{name}\0".encode()
    command = ["git", f"--git-dir={store.path}", *protected, "update-index", "-z", "--index-info"]
    done = subprocess.run(command, input=row, capture_output=True, check=False)
    if done.returncode != 0 or b"invalid" in done.stderr.lower():
        assert wrong_with(name)


@pytest.mark.parametrize("name", ["x.whl", "vllm-0.33.0.tar.gz", "a+b-1!2.zip"])
def test_an_archives_name_is_one_of_a_file(name: str) -> None:
    assert wrong_file_name(name) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", ".x", "a\nb", "-x", "a b", "a\\b", "\u00e9"]
)
def test_what_is_no_file_name_is_refused(name: str) -> None:
    assert wrong_file_name(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"'a\nb'"),
        ("\x1b[31m", r"'\x1b[31m'"),
        ("caf\udce9", r"'caf\xe9'"),
        ("\u202egpj", r"'\u202egpj'"),
        (b"caf\xe9", r"'caf\xe9'"),
        ("m\u00fcll", "'m\u00fcll'"),
        ("x" * 300, f"'{'x' * 200}...'"),
    ],
)
def test_a_name_in_a_message_is_one_line_of_letters(name: str | bytes, shown: str) -> None:
    assert escaped(name) == shown
    assert shown.isprintable()


def refuse(name: str, why: str) -> SourceError:
    return SourceError(f"{name} {why}")


def file(path: str, mode: str = "100644") -> Entry:
    return Entry(path=path, mode=mode, content=b"x")


def link(path: str, target: str | bytes) -> Entry:
    content = target if isinstance(target, bytes) else target.encode()
    return Entry(path=path, mode="120000", content=content)


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([file("a"), file("a")], "'a' stands twice"),
        ([file("a"), link("a", "b")], "'a' stands twice"),
        ([file("Read.me"), file("READ.ME")], "'READ.ME' is the same as 'Read.me'"),
        ([file("a"), file("a/b")], "'a/b' is below 'a', which is no folder"),
        ([file("a/b"), file("a")], "'a' is a file, and 'a' is a folder"),
        ([file("A/b"), file("a")], "'a' is a file, and 'A' is a folder"),
        ([file("a/b/c"), link("a/B", "x")], "'a/B' is a file, and 'a/b' is a folder"),
        (
            [file("Docs/a"), file("docs/b")],
            "'docs/b' is in 'docs', which is the same as 'Docs' on a disk",
        ),
        ([file("m\u00fcll"), file("mu\u0308ll")], "on a disk that folds"),
        ([file("stra\u00dfe"), file("STRASSE")], "on a disk that folds"),
        ([file("\ufb01x"), file("fix")], "on a disk that folds"),
        ([file("a"), file("a.")], "on a disk that folds"),
        ([file("a/b"), file("a /c")], "on a disk that folds"),
        ([file("a", "100664")], "has mode 100664"),
        ([file("a", "160000")], "has mode 160000"),
        ([file("a", "040000")], "has mode 040000"),
        ([file("a", "100644\n")], "has mode"),
        ([link("l", "")], "link to nothing"),
        ([link("l", "/etc/passwd")], "link out of the tree"),
        ([link("l", "..")], "link out of the tree"),
        ([link("d/l", "../../x")], "link out of the tree"),
        ([link("l", "a/../../x")], "link out of the tree"),
        ([link("l", "a\0b")], "control character"),
        ([link("l", "a\nb")], "control character"),
        ([link("l", b"caf\xe9")], "isn't UTF-8"),
        ([link("l", ".git/config")], "link out of the tree"),
        ([link("l", "x/.GIT./hooks")], "link out of the tree"),
        ([link("l", "a\\b")], "backslash"),
        ([link("l", "x" * 2000)], "bytes"),
        ([link(".gitmodules", "a"), file("a")], "where git wants a file"),
        ([link("GITMOD~1", "a"), file("a")], "where git wants a file"),
        ([link("l", "l")], "round in a circle"),
        ([link("a", "b"), link("b", "a")], "round in a circle"),
        ([link("a", "b/c"), link("b", "a/d")], "round in a circle"),
        # Each step stays inside as it is written; the way through all of them doesn't.
        ([link("d/up", ".."), link("l", "d/up/../x"), file("d/x")], "link out of the tree"),
        (
            [link("a", "b"), link("b", "c/d"), link("c", "e"), link("e/d", "../..")],
            "out of the tree",
        ),
        (
            [link("D", "x/y/.."), link("x/y", ".."), link("l", "d/../.."), file("z")],
            "out of the tree",
        ),
        ([link("l", "K/.."), link("\u212a", "x/y"), link("m", "l/../..")], "out of the tree"),
    ],
)
def test_a_tree_that_a_disk_cant_hold_or_that_leads_out_is_refused(
    entries: list[Entry], said: str
) -> None:
    with pytest.raises(SourceError, match=said):
        list(Gate(refuse=refuse).through(entries))


@pytest.mark.parametrize(
    "entries",
    [
        [file("a", "100755"), file("b/a"), file("b/c/a"), file("ab")],
        [link("l", "a/b"), file("a/b")],
        [link("d/l", "../x"), file("x")],
        [link("d/l", ".."), file("x")],
        [link("l", "not/there")],
        [link("a", "b"), link("b", "c"), file("c")],
        [link("d/up", ".."), link("l", "d/up/x"), file("x")],
        [link("l", "d/./../x//y"), file("d/z"), file("x/y")],
    ],
)
def test_what_stays_inside_is_taken_in_its_order(entries: list[Entry]) -> None:
    assert list(Gate(refuse=refuse).through(entries)) == entries


def test_sizes_and_numbers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (-1, LARGEST_FILE + 1):
        with pytest.raises(SourceError, match=f"has {size} bytes"):
            Gate(refuse=refuse).admit("a", "100644", size)
    monkeypatch.setattr("recipe.objects.gate.names.MOST_FILES", 2)
    with pytest.raises(SourceError, match="'c' is past the size or number"):
        list(Gate(refuse=refuse).through([file("a"), file("b"), file("c")]))
    monkeypatch.setattr("recipe.objects.gate.names.LARGEST_TREE", 1)
    with pytest.raises(SourceError, match="'b' is past the size or number"):
        list(Gate(refuse=refuse).through([file("a"), file("b")]))


def test_folding_twice_is_folding_once() -> None:
    for number in range(0x3000):
        letter = chr(number)
        if unicodedata.category(letter) not in ("Cs", "Cn"):
            assert folded(folded(f"a{letter}b")) == folded(f"a{letter}b")
