# SPDX-License-Identifier: Apache-2.0
"""Tables for people: aligned text on a terminal, Markdown between two marks of a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

Rows = Sequence[Sequence[str]]


def text(head: Sequence[str], rows: Rows) -> str:
    """Columns padded with blanks; the first is aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]))
    return "\n".join(lines)


def markdown(head: Sequence[str], rows: Rows) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def put(path: Path, name: str, body: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end of name -->` in a document."""
    before, start, rest = path.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    if not start or not end:
        raise ValueError(f"{path} has no place for the table {name}")
    path.write_text(f"{before}{start}{body}\n{end}{after}", encoding="utf-8")
