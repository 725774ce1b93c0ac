# SPDX-License-Identifier: Apache-2.0
"""Text files of the project, which are UTF-8."""

from __future__ import annotations

from pathlib import Path

from recipe.ground.errors import ConfigError


def read_text(path: Path) -> str:
    """A file's text; ConfigError names the line of what isn't text in UTF-8."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path.name} is missing", next=f"git checkout -- {path.name}") from None
    return as_text(content, path.name)


def as_text(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{name}:{line}: byte {content[error.start]:#04x} is not UTF-8",
            means="It was saved in another encoding, or it is damaged.",
            next=f"mend that line, or: git checkout -- {name}",
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError(
            f"{name}:{line}: a NUL byte stands in it",
            means="It is damaged, or it isn't a text file.",
            next=f"git checkout -- {name}",
        )
    return text
