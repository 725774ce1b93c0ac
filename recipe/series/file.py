# SPDX-License-Identifier: Apache-2.0
"""Rewrite series.txt: one line changes, comments, groups and blank lines stay as they are."""

from __future__ import annotations


def entry_of(line: str) -> str | None:
    """The patch that a line of a quilt series file names; None for a comment or an empty line."""
    text = line.split(" #", 1)[0].strip()
    return text if text and not text.startswith("#") else None


def insert_after(text: str, entry: str | None, new: str) -> str:
    """`text` with a line for the patch `new` after that of `entry`; None puts it first.

    KeyError if no line names `entry`.
    """
    lines = text.splitlines(keepends=True)
    entries = [entry_of(line) for line in lines]
    if entry is None:
        position = next((i for i, one in enumerate(entries) if one is not None), len(lines))
    elif entry in entries:
        position = entries.index(entry) + 1
    else:
        raise KeyError(entry)
    if position > 0 and not lines[position - 1].endswith("\n"):
        lines[position - 1] += "\n"
    return "".join([*lines[:position], f"{new}\n", *lines[position:]])
