# SPDX-License-Identifier: Apache-2.0
"""What the repository's pages show a person: blocks, commands, links and headings."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[3]
# What a command starts with in running text, where a name of git's is most often just named.
PROGRAMS = ("python", "python3", "pip", "vllm", "docker", "apt-get", "curl", "pre-commit", "uv")


@dataclass(frozen=True, kw_only=True)
class Command:
    """One line that a page tells its reader to type. words: without comments and variables."""

    page: str
    line: int
    text: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page by its path from the root, as Markdown has it."""

    name: str
    text: str
    tokens: tuple[Token, ...]

    @property
    def blocks(self) -> list[tuple[int, str]]:
        """Line and content of each block that is marked as commands."""
        return [
            ((token.map or [0])[0] + 2, token.content)
            for token in self.tokens
            if token.type == "fence" and token.info.strip() == "sh"
        ]

    @property
    def inline(self) -> list[tuple[int, str]]:
        """Line and content of each piece of code in running text."""
        return [
            ((token.map or [0])[0] + 1, child.content)
            for token in self.tokens
            for child in token.children or ()
            if child.type == "code_inline"
        ]

    @property
    def links(self) -> list[str]:
        """Where links and pictures of the page lead."""
        found = []
        for token in self.tokens:
            for child in token.children or ():
                place = child.attrGet("href") or child.attrGet("src")
                if place is not None:
                    found.append(str(place))
        return found

    @property
    def anchors(self) -> set[str]:
        """The names of the headings, as the web page of a repository gives them."""
        titles = [
            "".join(c.content for c in after.children or ())
            for token, after in zip(self.tokens, self.tokens[1:], strict=False)
            if token.type == "heading_open"
        ]
        found: dict[str, int] = {}
        names = set()
        for title in titles:
            name = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            again = found.get(name, 0)
            found[name] = again + 1
            names.add(f"{name}-{again}" if again else name)
        return names

    @property
    def indented(self) -> list[tuple[int, str]]:
        """Line and text of what stands in blocks without a mark: output, and some commands."""
        return [
            ((token.map or [0])[0] + 1 + number, line)
            for token in self.tokens
            if token.type == "code_block"
            for number, line in enumerate(token.content.splitlines())
        ]

    def commands(self) -> Iterator[Command]:
        """Every line of the blocks of commands, and elsewhere what starts like one."""
        for start, content in self.blocks:
            for number, line in logical_lines(content):
                yield self.command(start + number, line)
        for number, line in (*self.inline, *self.indented):
            if looks_like_one(line):
                yield self.command(number, line)

    def command(self, line: int, text: str) -> Command:
        words = shlex.split(text, comments=True)
        while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):
            del words[0]
        return Command(page=self.name, line=line, text=text, words=tuple(words))


def logical_lines(content: str) -> Iterator[tuple[int, str]]:
    """Lines of a script with their number, those that a backslash continues as one."""
    pending, first = "", 0
    for number, line in enumerate(content.splitlines()):
        first = first if pending else number
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        if pending.strip() and not pending.lstrip().startswith("#"):
            yield first, pending.strip()
        pending = ""


def looks_like_one(text: str) -> bool:
    """Whether code in a text is a command with an argument, not a program's or a file's name."""
    words = text.split()
    while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=\S*", words[0]):
        del words[0]
    return len(words) > 1 and words[0] in PROGRAMS


@functools.cache
def pages() -> tuple[Page, ...]:
    """README, the other pages of the root, and docs/."""
    paths = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    read = MarkdownIt("commonmark").enable("table")
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(paths)}
    return tuple(
        Page(name=path.relative_to(ROOT).as_posix(), text=text, tokens=tuple(read.parse(text)))
        for path, text in texts.items()
    )


def page(name: str) -> Page:
    return next(one for one in pages() if one.name == name)
