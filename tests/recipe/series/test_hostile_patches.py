# SPDX-License-Identifier: Apache-2.0
"""Patches made to do harm: lint and apply refuse each alike, by its line, and nothing is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.ground.errors import ConfigError
from recipe.objects.hunks import read_hunks
from tests.recipe.repo import Repository, read
from tests.recipe.world import World

NAME = b"vllm/fresh.py"
NINES = b"9" * 5000
Change = Callable[[bytes], bytes]


@pytest.fixture
def patch(upstream: Repository) -> bytes:
    return made(upstream)


def made(upstream: Repository) -> bytes:
    """A patch that adds a file and changes another."""
    model = (upstream.root / "vllm" / "model.py").read_bytes()
    return upstream.patch({NAME.decode(): b"new\n", "vllm/model.py": model + b"more\n"})


def swap(old: bytes, new: bytes) -> Change:
    return lambda content: content.replace(old, new)


def named(name: bytes) -> Change:
    return swap(NAME, name)


def quoted(name: bytes) -> Change:
    """The name as git quotes one, after a/ and b/."""
    return lambda content: re.sub(
        rb"([ab]/)vllm/fresh\.py", lambda found: b'"' + found[1] + name + b'"', content
    )


def indexed(line: bytes) -> Change:
    return lambda content: re.sub(rb"(?m)^(index .*) 100644$", line, content)


def dated(date: str) -> Change:
    return lambda content: re.sub(rb"(?m)^Date: .*$", f"Date: {date}".encode(), content)


def from_(author: str) -> Change:
    return lambda content: re.sub(rb"(?m)^From: .*$", f"From: {author}".encode(), content)


def titled(subject: str) -> Change:
    return lambda content: re.sub(rb"(?m)^Subject: .*$", f"Subject: {subject}".encode(), content)


def hunk(header: bytes) -> Change:
    return lambda content: re.sub(rb"(?m)^@@ .*$", header, content)


def trailer(name: bytes, value: bytes) -> Change:
    return lambda content: re.sub(rb"(?m)^%s: .*$" % name, name + b": " + value, content)


DIFF = [
    (swap(b"new file mode 100644", b"new file mode 120000"), "mode '120000'"),
    (swap(b"new file mode 100644", b"new file mode 160000"), "mode '160000'"),
    (swap(b"new file mode 100644", b"new file mode 0120000"), "mode '0120000'"),
    (swap(b"new file mode 100644", b"new file mode  120000"), "mode ' 120000'"),
    (swap(b"new file mode 100644", b"new file mode 040000"), "mode '040000'"),
    (swap(b"new file mode 100644", b"new file mode 100664"), "mode '100664'"),
    (swap(b"new file mode 100644", b"new file mode 100644\r"), r"mode '100644\r'"),
    (indexed(rb"\1 120000"), "mode '120000'"),
    (indexed(rb"\1  120000"), "mode ' 120000'"),
    (indexed(rb"old mode 100644\nnew mode 120000\n\1"), "'120000'"),
    (named(b"vllm/a\0b.py"), r"control character (\x00)"),
    (named(b"vllm/a\rb.py"), r"control character (\r)"),
    (named(b"vllm/a\x1bb.py"), r"control character (\x1b)"),
    (named(b"vllm/a\xc2\x85b.py"), r"control character (\x85)"),
    (named(b"vllm/caf\xe9.py"), "isn't UTF-8"),
    (quoted(rb"vllm/a\nb.py"), r"control character (\n)"),
    (quoted(rb"vllm/a\000b.py"), r"control character (\x00)"),
    (quoted(rb"vllm/a\377.py"), "isn't UTF-8"),
    (quoted(rb"\777"), "backslash"),
    (quoted(rb"\9"), "backslash"),
    (swap(b"+++ b/vllm/fresh.py", b'+++ "b/\\777"'), "backslash"),
    (named(b"vllm/.GIT/config"), "leaves the tree"),
    (named(b"git~1/config"), "leaves the tree"),
    (named(b".gi\xe2\x80\x8ct/config"), r"control character (\u200c)"),
    (named(b"a//b.py"), "has an empty part"),
    (named(b"vllm/../../x.py"), "leaves the tree"),
    (hunk(b"@@ -1," + NINES + b" +1 @@"), "header can't be read"),
    (hunk(b"@@ -" + NINES + b" +1 @@"), "header can't be read"),
    (hunk(b"@@ -1,99999999999 +1,99999999999 @@"), "header can't be read"),
    (hunk(b"@@@ -1,2 -1,2 +1,3 @@@"), "header can't be read"),
    (hunk(b"@@ -1,99 +1,99 @@"), "other lines than its header counts"),
    (hunk(b"@@ -1 +1 @@"), "other lines|no hunk|cut off"),
    (lambda c: c.replace(b"+more\n", b""), "cut off"),
    (lambda c: c + b"+ and more\n", "no hunk"),
    (lambda c: c + b"Now for something else\n", "no hunk"),
    (lambda c: c + b"-- \n2.39.5\n--- a/x\n+++ b/x\n", "follows the end"),
    (lambda c: c + b"diff --git a/x b/x\nnew file mode 120000\n", "'120000'"),
    (lambda c: c + b"GIT binary patch\nliteral 4294967295\nzcmX\n", "a binary of 4294967295 bytes"),
]
HEADER = [
    (dated(""), "isn't a date with a zone"),
    (dated("Sun, 22 Nov 2026 00:00:00"), "isn't a date with a zone"),
    (dated("99999999999999999999 +0000"), "isn't a date with a zone"),
    (dated("1700000000 +0000"), "isn't a date with a zone"),
    (dated("yesterday"), "isn't a date with a zone"),
    (dated("Sun, 22 Nov 2026 00:00:00 CET"), "isn't a date with a zone"),
    (dated("Sun, 22 Nov 20260000 00:00:00 +0000"), "isn't a date with a zone"),
    (dated("Sun, 32 Nov 2026 00:00:00 +0000"), "isn't a day from 1970 to 2099"),
    (dated("Sun, 22 Nov 2026 25:00:00 +0000"), "isn't a day from 1970 to 2099"),
    (dated("Sun, 22 Nox 2026 00:00:00 +0000"), "isn't a day from 1970 to 2099"),
    (dated("Sun, 22 Nov 9999 00:00:00 +0000"), "isn't a day from 1970 to 2099"),
    (dated("Thu, 1 Jan 1970 00:00:00 +1400"), "isn't a day from 1970 to 2099"),
    (dated("Sun, 22 Nov 0000 00:00:00 +0000"), "isn't a day from 1970 to 2099"),
    (dated("Sun, 22 Nov 2026 00:00:00 +9999"), "no place on earth"),
    (dated("Sun, 22 Nov 2026 00:00:00 +0099"), "no place on earth"),
    (titled("=?utf-8?b?a?="), "Subject: can't be decoded"),
    (titled("=?utf-8?b?/w==?="), "Subject: "),
    (titled("=?no-such-charset?q?a?="), "Subject: can't be decoded"),
    (titled("=?utf-8?q?a=00b?="), "control character"),
    (titled("=?utf-8?q?a=1B[2J?="), "control character"),
    (titled("=?utf-8?q?a=0Ab?="), "several lines"),
    (titled("a\x07b"), "control character"),
    (titled(""), "Subject"),
    (from_("<>"), "isn't a name and an address"),
    (from_(" <a@b>"), "isn't a name and an address"),
    (from_(". <a@b>"), "isn't a name and an address"),
    (from_("Name"), "isn't a name and an address"),
    (from_("Name <a@b"), "isn't a name and an address"),
    (from_("Name <a@b> <c@d>"), "isn't a name and an address"),
    (from_("=?utf-8?q?a=0Ab?= <a@b>"), "control character"),
    (from_("=?utf-8?b?a?= <a@b>"), "can't be decoded"),
    (from_("a\0b <a@b>"), "control character"),
    (swap(b"\nDate: ", b"\nFrom: Another <a@b>\nDate: "), "From: stands twice"),
    (swap(b"\nDate: ", b"\nsubject: Another\nDate: "), "Subject: stands twice"),
    (swap(b"\nDate: ", b"\nContent-Transfer-Encoding: base64\nDate: "), "git am would decode"),
    (swap(b"Why it", b"Why\0it"), "a NUL in a message"),
    (trailer(b"Tests", b"../../../etc/passwd"), "'../../../etc/passwd' leaves the tree"),
    (trailer(b"Tests", b"/etc/passwd"), "'/etc/passwd' is absolute"),
    (trailer(b"Tests", b"tests/patched/test_small.py, ../x"), "'../x' leaves the tree"),
    (trailer(b"Tests", b".git/config"), "leaves the tree"),
    (trailer(b"Bases", b">=" + NINES), "a number of ten digits"),
    (trailer(b"Tests", b"x\nDrop-When: upstream >= " + NINES), "a number of ten digits"),
    (trailer(b"Tests", b"x\nApplied-Upstream: " + NINES), "a number of ten digits"),
]


def test_the_patch_itself_is_taken(tmp_path: Path, patch: bytes) -> None:
    assert set(read(tmp_path, patch).touched) == {"vllm/fresh.py", "vllm/model.py"}


@pytest.mark.parametrize(("change", "said"), [*DIFF, *HEADER])
def test_a_hostile_patch_is_refused_by_line(
    tmp_path: Path, patch: bytes, change: Change, said: str
) -> None:
    content = change(patch)
    assert content != patch
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content)
    what = caught.value.what
    assert re.match(r"patches/vllm/change\.patch:\d+: ", what), what
    assert said in what or re.search(said, what), what
    assert what.isprintable()
    assert len(what) < 700
    assert caught.value.next


@pytest.mark.parametrize(
    "change",
    [
        swap(b"new file mode 100644", b"new file mode 120000"),
        named(b"vllm/a\rb.py"),
        trailer(b"Tests", b"../../../etc/passwd"),
        dated(""),
    ],
)
def test_lint_and_apply_say_the_same(world: World, change: Change) -> None:
    world.add_patch("change.patch", change(made(world.upstream)))
    told = []
    for command in (["lint"], ["apply", "--tree", str(world.root / "tree")], ["plan"]):
        done = world.run(*command)
        assert done.status == 2, done.err
        told.append([line for line in done.err.splitlines() if line.startswith("error: ")])
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == 1
    assert not (world.root / "tree").exists()


def test_a_test_that_a_link_leads_out_to_is_none(world: World) -> None:
    test = world.root / "tests" / "patched" / "test_small.py"
    world.add_patch("change.patch", made(world.upstream))
    world.good("lint")
    test.unlink()
    test.symlink_to("/etc/passwd")
    done = world.run("lint")
    assert done.status == 2
    assert "Tests: tests/patched/test_small.py" in done.err


def test_a_patch_that_is_a_link_is_not_read(world: World, tmp_path: Path) -> None:
    world.add_patch("change.patch", made(world.upstream))
    file = world.root / "patches" / "vllm" / "change.patch"
    file.rename(tmp_path / "elsewhere.patch")
    file.symlink_to(tmp_path / "elsewhere.patch")
    done = world.run("lint")
    assert done.status == 2
    assert "patches/vllm/change.patch:1: it is no file of its own" in done.err


def test_a_target_that_a_patch_changes_without_a_mode_is_looked_at(
    world: World, tmp_path: Path
) -> None:
    """Nothing in such a diff says that it is of a link: only the tree shows it."""
    upstream = world.upstream
    (upstream.root / "vllm" / "alias").symlink_to("model.py")
    upstream.commit({})
    plain = tmp_path / "source"
    upstream.git("clone", "--quiet", ".", str(plain))
    (upstream.root / "vllm" / "alias").unlink()
    (upstream.root / "vllm" / "alias").symlink_to("/proc/self/environ")
    content = upstream.patch({})
    assert b" 120000\n" in content
    hidden = re.sub(rb"(?m)^(index .*) 120000$", rb"\1", content)
    world.add_patch("change.patch", hidden)
    tree = world.root / "tree"

    done = world.run("apply", "--source", str(plain), "--tree", str(tree))

    assert done.status == 4, done.err
    assert "in the patched tree 'vllm/alias' is a link out of the tree" in done.err
    assert done.next
    assert not tree.exists()


def test_a_name_that_a_disk_takes_for_upstreams_is_refused(world: World) -> None:
    world.add_patch("change.patch", world.upstream.patch({"vllm/Model.py": b"ours\n"}))
    done = world.run("plan")
    assert done.status == 4
    assert "on a disk that folds letters" in done.err


def test_hunks_of_any_diff_are_read_without_a_number_too_large() -> None:
    patch = b"diff --git a/x b/x\n@@ -1," + NINES + b" +1 @@\n-a\n+b\n"
    assert read_hunks(patch) == ()
