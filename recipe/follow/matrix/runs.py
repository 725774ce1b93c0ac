# SPDX-License-Identifier: Apache-2.0
"""A topic's releases in runs: neighbours on which it is the same, and what differs among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from recipe.follow.matrix.table import Cell


@dataclass(frozen=True, kw_only=True)
class Run:
    """Releases in a row on which a topic is the same, by the same patch.

    shared: the lines that hold on all of them. groups: neighbours that have the same other lines.
    """

    cells: tuple[Cell, ...]
    shared: tuple[str, ...]
    groups: tuple[tuple[Cell, ...], ...]

    @property
    def first(self) -> Cell:
        return self.cells[0]

    @property
    def bases(self) -> tuple[str, ...]:
        return tuple(cell.base for cell in self.cells)

    def own(self, cell: Cell) -> tuple[str, ...]:
        return tuple(line for line in lines(cell) if line not in self.shared)


def runs_of(row: tuple[Cell, ...]) -> tuple[Run, ...]:
    return tuple(run_of(tuple(c)) for _, c in groupby(row, key=lambda c: (c.state, c.patch)))


def run_of(cells: tuple[Cell, ...]) -> Run:
    shared = [line for line in lines(cells[0]) if all(line in lines(cell) for cell in cells)]
    groups = [tuple(group) for _, group in groupby(cells, key=lines)]
    return Run(cells=cells, shared=tuple(shared), groups=tuple(groups))


def lines(cell: Cell) -> tuple[str, ...]:
    """A cell's evidence, with the place of its first conflict if that isn't in it."""
    told = not cell.place or any(cell.place in line for line in cell.evidence)
    return cell.evidence if told else (f"first at {cell.place}", *cell.evidence)


def span(bases: Sequence[str]) -> str:
    first, last = bases[0], bases[-1]
    return first if first == last else f"{first} \N{EN DASH} {last}"
