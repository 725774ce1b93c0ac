# SPDX-License-Identifier: Apache-2.0
"""The matrix for a terminal: a line a topic, a column a release, and each topic's story below."""

from __future__ import annotations

from itertools import groupby

from recipe.follow.matrix.store import history
from recipe.follow.matrix.table import Cell, CellState, Matrix

SYMBOLS = {
    CellState.APPLIES: "●",
    CellState.UPSTREAMED: "▲",
    CellState.UPSTREAMED_CHANGED: "△",
    CellState.NOT_NEEDED: "·",
    CellState.NEEDS_REBASE: "!",
    CellState.CONFLICT: "✗",
}
WANTS_WORK = (CellState.NEEDS_REBASE, CellState.CONFLICT)


def as_text(found: Matrix) -> str:
    """Releases of one minor version stand together, with their last numbers below it."""
    width = max(map(len, found.topics), default=0)
    groups = [list(tags) for _, tags in groupby(found.bases, key=minor)]
    head = " ".join(f"{minor(tags[0]):{cells_width(tags)}}" for tags in groups)
    numbers = " ".join(columns(tags, [tag.rsplit(".", 1)[1] for tag in tags]) for tags in groups)
    lines = [f"{'':{width}}  {head}", f"{'':{width}}  {numbers}"]
    for topic in found.topics:
        states = {cell.base: SYMBOLS[cell.state] for cell in found.row(topic)}
        marks = " ".join(columns(tags, [states[tag] for tag in tags]) for tags in groups)
        lines.append(f"{topic:{width}}  {marks}")
    used = {cell.state for cell in found.cells}
    lines += [
        "",
        "   ".join(f"{mark} {state}" for state, mark in SYMBOLS.items() if state in used),
        "",
    ]
    lines += [f"{topic}: {history(found.row(topic))}" for topic in found.topics]
    for cell in found.cells:
        if cell.state in WANTS_WORK:
            lines += ["", *problem(cell)]
    return "\n".join(line.rstrip() for line in lines)


def minor(tag: str) -> str:
    return tag.removeprefix("v").rsplit(".", 1)[0]


def cells_width(tags: list[str]) -> int:
    return max(len(minor(tags[0])), 2 * len(tags) - 1)


def columns(tags: list[str], marks: list[str]) -> str:
    return f"{' '.join(marks):{cells_width(tags)}}"


def problem(cell: Cell) -> list[str]:
    """What is in the way of a topic on a release, and what to type."""
    return [
        f"{cell.topic} on {cell.base}: {cell.state}",
        *(f"  {line}" for line in cell.evidence),
        f"  next: {next_command(cell)}",
    ]


def next_command(cell: Cell) -> str:
    return f"python build.py rebase --onto {cell.base}"
