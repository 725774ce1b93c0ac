# SPDX-License-Identifier: Apache-2.0
"""Text from patches and from upstream as HTML: escaped, with nothing in it that can't be seen."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from urllib.parse import quote

# A path, with a line or a folder, in a sentence.
PLACE = re.compile(r"([^\s:,'\"()]+:\d+|(?:[\w.+-]+/)+[\w.+-]+)")


def shown(text: str) -> str:
    """Escaped; a character that shows nothing, or turns others round, as Python writes it."""
    return escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


def sentence(line: str) -> str:
    """Words, with the places in them as code."""
    parts = PLACE.split(line)
    return "".join(code(part) if odd % 2 else shown(part) for odd, part in enumerate(parts))


def code(text: str) -> str:
    """Code that breaks after a slash first."""
    return f"<code>{shown(text).replace('/', '/<wbr>')}</code>"


def anchor(name: str) -> str:
    """An id that is a link's fragment as well; no topic makes one with an underscore."""
    return escape(quote(name, safe=""))


def amount(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def joined(parts: Iterable[str]) -> str:
    return "\n".join(parts)
