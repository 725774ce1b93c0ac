# SPDX-License-Identifier: Apache-2.0
"""The matrix, computed or as it was stored; its JSON form, and each topic's story in a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from recipe.bases.releases import Bases
from recipe.bases.sources import IMPORTER, from_sdists, store_of
from recipe.follow import footprint, nearby, upstreamed
from recipe.follow import outcome as follow
from recipe.follow.matrix import table as matrix
from recipe.follow.matrix.table import Cell, CellState, Matrix
from recipe.ground import proven
from recipe.ground.digest import sha256
from recipe.ground.log import say
from recipe.ground.project import Project
from recipe.objects import git, hunks, settings, threeway
from recipe.series import patch
from recipe.series import topics as series
from recipe.series.patch import Patch
from recipe.series.topics import read_series

# What a cell says depends on the code of these.
JUDGES = (
    matrix,
    follow,
    footprint,
    git,
    hunks,
    nearby,
    patch,
    series,
    settings,
    threeway,
    upstreamed,
)


def known_matrix(project: Project, bases: Bases, *, offline: bool) -> Matrix:
    """The matrix of the series as it is; computed only if something it depends on has changed."""
    patches = read_series(project)
    asked = key(bases, patches)
    stored = project.cache / "matrix" / f"{asked}.json"
    kept = proven.recall(stored, asked)
    found = None if kept is None else load(kept)
    if found is not None:
        return found
    commits = from_sdists(project, bases.releases, offline=offline)
    say(f"  judging {len(patches)} patches on {len(bases.releases)} releases")
    made = matrix.compute(store_of(project), bases, patches, commits)
    proven.keep(stored, asked, as_json(made))
    return made


def key(bases: Bases, patches: tuple[Patch, ...]) -> str:
    """A hash over all that decides a cell: the way of judging, every tree and every patch.

    Of the way of judging it has the code itself, so that nobody need remember to bump a number.
    """
    code = [sha256(Path(module.__file__ or "").read_bytes()) for module in JUDGES]
    trees = [[base.tag, base.source_id] for base in bases.releases]
    files = [[one.path, sha256(one.content)] for one in patches]
    return sha256(json.dumps([code, IMPORTER, trees, files]).encode())


def load(data: Mapping[str, Any]) -> Matrix | None:
    """A stored matrix; None if it has another form: it is computed anew then."""
    try:
        cells = [
            Cell(
                base=row["base"],
                topic=row["topic"],
                patch=row["patch"],
                state=CellState(row["state"]),
                evidence=tuple(row["evidence"]),
                place=row["place"],
            )
            for row in data["cells"]
        ]
        return Matrix(bases=tuple(data["bases"]), cells=tuple(cells))
    except (ValueError, KeyError, TypeError):
        return None


def as_json(found: Matrix) -> dict[str, Any]:
    return {
        "bases": list(found.bases),
        "cells": [{**asdict(cell), "evidence": list(cell.evidence)} for cell in found.cells],
        "history": {topic: history(found.row(topic)) for topic in found.topics},
    }


def history(row: tuple[Cell, ...]) -> str:
    """What became of a topic, release by release: its states in order, each with its first one."""
    runs = [(state, list(cells)) for state, cells in groupby(row, key=lambda cell: cell.state)]
    parts: list[str] = []
    for number, (state, cells) in enumerate(runs):
        before = runs[number - 1][0] if number else None
        last = number == len(runs) - 1
        changed = f"changed again in {cells[0].base}"
        if state == CellState.UPSTREAMED_CHANGED and before == CellState.UPSTREAMED:
            parts[-1] += f" ({changed})"
        elif state == CellState.UPSTREAMED_CHANGED:
            parts.append(f"upstreamed and {changed}")
        else:
            parts.append(WORDS[state].format(span=span(cells, last), first=cells[0].base))
            if cells[0].place:
                parts[-1] += f": {cells[0].place}"
    return "; ".join(parts)


WORDS = {
    CellState.APPLIES: "applies {span}",
    CellState.UPSTREAMED: "upstreamed in {first}",
    CellState.NOT_NEEDED: "not needed {span}",
    CellState.NEEDS_REBASE: "needs a rebase {span}",
    CellState.CONFLICT: "conflicts {span}",
}


def span(cells: list[Cell], last: bool) -> str:
    first, final = cells[0].base, cells[-1].base
    if last:
        return f"since {first}"
    return f"on {first}" if first == final else f"{first} to {final}"
