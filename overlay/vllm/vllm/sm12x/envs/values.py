# SPDX-License-Identifier: Apache-2.0
"""Parsers of environment variables: the text's value, or ValueError with what would be valid."""

import math
from collections.abc import Callable


def choice(*values: str) -> Callable[[str], str]:
    """Return a parser that takes one of `values`, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in values:
            raise ValueError(f"expected one of {', '.join(values)}")
        return text.lower()

    return parse


def gibibytes(text: str) -> float:
    """Parse a size in GiB that is not negative and whose bytes are a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value * 2**30) and value >= 0):
        raise ValueError("expected a size in GiB, such as 50 or 0.5")
    return value


def flag(text: str) -> bool:
    """Parse 1 or 0, or another word for them."""
    if text.lower() not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise ValueError("expected 1 or 0")
    return text.lower() in ("1", "true", "yes", "on")


def count(text: str) -> int:
    """Parse a whole number from 1 on."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError("expected a whole number from 1 on")
    return int(text)


def one_of(*values: int) -> Callable[[str], int]:
    """Return a parser that takes one of some numbers."""

    def parse(text: str) -> int:
        if text not in map(str, values):
            raise ValueError(f"expected one of {', '.join(map(str, values))}")
        return int(text)

    return parse
