# SPDX-License-Identifier: Apache-2.0
"""Which lines of a source file speak to people alone: comments and docstrings."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator

from recipe.objects.git import Store

# What a string follows where it is a statement of its own.
STARTS = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
SILENT = {tokenize.NL, tokenize.COMMENT}
C_LIKE = re.compile(r"\.(c|cc|cpp|cu|cuh|h|hpp|inl|rs|js)$")
HASHED = re.compile(r"(\.(py|pyi|sh|cmake|toml|ya?ml|txt|cfg)|Dockerfile)$")
# A string may look like a comment's beginning, and a comment like a string's.
C_PART = re.compile(
    rb'"(?:[^"\\\n]|\\.)*"|' rb"'(?:[^'\\\n]|\\.)+'|" rb"//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL
)


def prose_lines(path: str, content: bytes) -> frozenset[int]:
    """Numbers, from 1, of the lines that hold nothing but a comment or a part of a docstring.

    A line of code with a comment behind it is code. Of a kind of file that isn't known, none is.
    """
    if path.endswith((".py", ".pyi")):
        return frozenset(python_prose(content))
    if C_LIKE.search(path):
        return frozenset(c_prose(content))
    return frozenset(hashed(content)) if HASHED.search(path) else frozenset()


def prose_at(store: Store, commit: str, path: str) -> frozenset[int]:
    """The same of a file of a commit; none where it has no such file."""
    if not store.has_path(commit, path):
        return frozenset()
    return prose_lines(path, store.read(commit, path))


def hashed(content: bytes) -> Iterator[int]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.lstrip().startswith(b"#"):
            yield number


def python_prose(content: bytes) -> Iterator[int]:
    yield from docstrings(content)
    yield from hashed_tokens(content)


def tokens(content: bytes) -> list[tokenize.TokenInfo]:
    """As far as this Python can read the file: a release may be written for a newer one."""
    found = []
    try:
        for token in tokenize.tokenize(io.BytesIO(content).readline):
            found.append(token)
    except (tokenize.TokenError, SyntaxError):
        pass
    return found


def docstrings(content: bytes) -> Iterator[int]:
    known = [token for token in tokens(content) if token.type not in SILENT]
    for before, token, after in zip(known, known[1:], known[2:], strict=False):
        alone = before.type in STARTS and after.type == tokenize.NEWLINE
        if token.type == tokenize.STRING and alone:
            yield from range(token.start[0], token.end[0] + 1)


def hashed_tokens(content: bytes) -> Iterator[int]:
    for token in tokens(content):
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            yield token.start[0]


def c_prose(content: bytes) -> Iterator[int]:
    blank = C_PART.sub(lambda found: covered(found[0]), content)
    for number, (line, left) in enumerate(
        zip(content.split(b"\n"), blank.split(b"\n"), strict=True), 1
    ):
        if line.strip() and not left.strip():
            yield number


def covered(part: bytes) -> bytes:
    """A comment as blanks, its line breaks kept; a string as it is."""
    return re.sub(rb"[^\n]", b" ", part) if part.startswith(b"/") else part
