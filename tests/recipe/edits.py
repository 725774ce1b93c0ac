# SPDX-License-Identifier: Apache-2.0
"""Generated trees, edits and commit messages, with what makes patches hard in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from unicodedata import normalize

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.recipe.repo import TRAILERS


@dataclass(frozen=True, kw_only=True)
class File:
    """What a tree holds under one path."""

    content: bytes
    executable: bool = False


Tree = dict[str, File]


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One commit: the tree after it, its message without trailers, its author and date."""

    tree: Tree
    subject: str
    body: str
    author: str
    date: str


@dataclass(frozen=True, kw_only=True)
class History:
    """A base and the edits that follow it."""

    base: Tree
    edits: tuple[Edit, ...]

    @property
    def trees(self) -> tuple[Tree, ...]:
        return (self.base, *(edit.tree for edit in self.edits))


# A file that every base has, so that there is one to edit.
START = "start.py"
FOLDERS = ("", "", "sub/", "deep er/\u00fc/", 'b "q" b/', "-d/", "b/")
STEMS = (
    "plain.py",
    "run.sh",
    "with blank.py",
    'quo"te',
    "m\u00fcll.py",
    "mu\u0308ll.py",
    "\u4e16\u754c.txt",
    "\U0001f600",
    "-dash",
    "--",
    "dev",
    "null",
    "[a]*?",
    ":(top)x",
    "#hash",
    "a => b",
    "c b",
    ".gitignore",
    ".gitattributes",
)
NAMES = st.builds(
    lambda folder, stem: folder + stem, st.sampled_from(FOLDERS), st.sampled_from(STEMS)
)
ODD_LINES = (
    b"",
    b"same",
    b"---",
    b"-- ",
    b"- ",
    b"--- a/x",
    b"+++ b/x",
    b"-- a/x",
    b"++ b/x",
    b"@@ -1 +1 @@",
    b"@@ -1,3 +1,3 @@ def",
    b"diff --git a/x b/x",
    b"index e69de29..0000000",
    b"rename to ../x",
    b"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001",
    b">From x",
    b"From: x",
    b"GIT binary patch",
    b"literal 3",
    b"\\ No newline at end of file",
    b" 3 files changed",
    b"Binary files a/x and b/x differ",
    b"* text eol=crlf",
    b"blank at the end ",
    b"\ttab",
    b"\x0cform feed",
    b"lone \r return",
    b"\xc3\xbc \xff\xfe",
)
ENDS = st.sampled_from([(b"\n",), (b"\n",), (b"\r\n",), (b"\n", b"\r\n")])


@st.composite
def text(draw: st.DrawFn) -> bytes:
    """Numbered lines, odd ones between, ends of one kind or two, maybe no newline at the end."""
    count = draw(st.integers(1, 16))
    lines = [b"line %d" % number for number in range(count)]
    for odd in draw(st.lists(st.sampled_from(ODD_LINES), max_size=5)):
        lines.insert(draw(st.integers(0, len(lines))), odd)
    ends = draw(ENDS)
    whole = b"".join(line + ends[number % len(ends)] for number, line in enumerate(lines))
    return whole.removesuffix(ends[0]) if draw(st.integers(0, 3)) == 0 else whole


BINARY = st.binary(max_size=80).map(lambda some: b"\0\1" + some + b"\n\0")
CONTENT = st.one_of(text(), text(), text(), BINARY, st.just(b""))
FILES = st.builds(lambda content, x: File(content=content, executable=x), CONTENT, st.booleans())


def fits(tree: Mapping[str, File], name: str) -> bool:
    """Whether a new file can have the name: no folder is a file, nor the other way round, and no
    disk that composes letters takes two names for one."""
    new = normalize("NFC", name)
    old = [normalize("NFC", other) for other in tree]
    return not any(
        other == new or other.startswith(new + "/") or new.startswith(other + "/") for other in old
    )


@st.composite
def trees(draw: st.DrawFn, names: st.SearchStrategy[str] = NAMES) -> Tree:
    tree = {START: File(content=b"".join(b"start %d\n" % number for number in range(12)))}
    for name in draw(st.lists(names, max_size=5)):
        if fits(tree, name):
            tree[name] = draw(FILES)
    return tree


@st.composite
def changed_lines(draw: st.DrawFn, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines)))
        gone = draw(st.integers(0, 2))
        new = draw(st.lists(st.sampled_from(ODD_LINES), max_size=2))
        lines[at : at + gone] = [line + draw(st.sampled_from([b"\n", b"\r\n"])) for line in new]
    return b"".join(lines)


@st.composite
def changed(draw: st.DrawFn, before: Tree) -> Tree:
    """One to three things done to a tree."""
    tree = dict(before)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(
            st.sampled_from(["lines", "lines", "add", "remove", "rename", "mode", "content"])
        )
        name = draw(st.sampled_from(sorted(tree))) if tree else START
        if kind == "add" or name not in tree:
            new = draw(NAMES)
            if fits(tree, new):
                tree[new] = draw(FILES)
            continue
        file = tree.pop(name)
        if kind == "rename":
            target = draw(NAMES)
            content = file.content
            if draw(st.booleans()):
                content = draw(changed_lines(content))
            place = target if fits(tree, target) else name
            tree[place] = File(content=content, executable=file.executable)
        elif kind == "mode":
            tree[name] = File(content=file.content, executable=not file.executable)
        elif kind != "remove":
            content = draw(changed_lines(file.content) if kind == "lines" else CONTENT)
            tree[name] = File(content=content, executable=file.executable)
    return tree


WORDS = (
    "Change",
    "it",
    "now",
    "R\u00fcckw\u00e4rts",
    "\u4e16\u754c",
    "\U0001f600",
    "a=b",
    "=?x?=",
    '"q"',
    "x:",
)
BODY_LINES = (
    "Why it is needed.",
    "* an item",
    "  --- a/x",
    "  +++ b/x",
    "> @@ -1 +1 @@",
    "  new file mode 100644",
    "> diff --git a/x b/x",
    "From the start it was so.",
    ">From 1 to 2",
    "---x",
    "-- x",
    "#no comment",
    "3d tensors",
    "+++ b/x",
    "Subject is not the line",
    "\u00fcber \u4e16\u754c",
    "index 123..456",
    "GIT binary patch",
    "Signed-off-by: X <x@y.example>",
)
AUTHORS = st.sampled_from(
    [
        "Plain Name <plain@x.example>",
        "J\u00f6rg \u4e16\u754c <j@x.example>",
        'Dwayne "The Rock" J <d@x.example>',
        "Dr. No, Jr <no@x.example>",
        "O'Brien (away) <o@x.example>",
        "back\\slash <b@x.example>",
        "one-word <>",
    ]
)
# git reads a date of a mail from 1970 to 2099.
DATES = st.builds(
    lambda seconds, zone: f"{seconds} {zone}",
    st.integers(10**8, 4 * 10**9),
    st.sampled_from(["+0000", "-0930", "+0545", "+1400"]),
)


@st.composite
def subjects(draw: st.DrawFn) -> str:
    bracket = draw(st.sampled_from(["", "", "[a] ", "[a][b] ", "[v2 1/3] ", "[unclosed "]))
    long = draw(st.integers(0, 5)) == 0
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60 if long else 5))
    return bracket + " ".join(words)


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """Paragraphs of lines that the recipe takes: test_mails.py shows which it refuses, and why."""
    paragraphs = st.lists(st.sampled_from(BODY_LINES), min_size=1, max_size=4).map("\n".join)
    return "\n\n".join(draw(st.lists(paragraphs, max_size=3)))


@st.composite
def histories(draw: st.DrawFn) -> History:
    base = draw(trees())
    edits: list[Edit] = []
    before = base
    for _ in range(draw(st.integers(1, 4))):
        after = draw(changed(before))
        if after == before:  # a commit without a change is no patch
            after = {**before, f"new {len(edits)}": File(content=b"new\n")}
        edits.append(
            Edit(
                tree=after,
                subject=draw(subjects()),
                body=draw(bodies()),
                author=draw(AUTHORS),
                date=draw(DATES),
            )
        )
        before = after
    return History(base=base, edits=tuple(edits))


def full_message(subject: str, body: str, topic: str = "topic") -> str:
    """A message as `git commit` would keep it, with the trailers that the series asks for."""
    values = {**TRAILERS, "Topic": topic, "Components": "none"}
    trailers = "".join(f"{name}: {value}\n" for name, value in values.items())
    return f"{subject}\n\n" + (f"{body}\n\n" if body else "") + trailers


def few(examples: int) -> settings:
    """The same examples in every run, and no limit on time: each of them starts processes."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
