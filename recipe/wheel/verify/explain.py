# SPDX-License-Identifier: Apache-2.0
"""Which line, row or key of a text of ours differs: who reads a finding wants to know what was
forged, not only where."""

from __future__ import annotations

import csv
import json
from typing import Any

from recipe.objects.gate.names import escaped
from recipe.wheel.record import FILE

MOST = 3  # that are named; the others are counted


def explained(member: str, found: bytes | None, must: bytes) -> str:
    """How a text differs from what it must be, in a few words; '' where nothing can be said."""
    if found is None:
        return ""
    if member.endswith(".dist-info/RECORD"):
        return named("rows", other_rows(found, must))
    if member.endswith(FILE):
        return named("keys", other_keys(found, must))
    return first_line(found, must)


def named(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"other {what}: {', '.join(escaped(name) for name in names[:MOST])}{more}"


def other_rows(found: bytes, must: bytes) -> list[str]:
    """The members whose rows of RECORD differ."""
    try:
        got, want = (rows(text) for text in (found, must))
    except (csv.Error, UnicodeDecodeError):
        return []
    return sorted(
        {name for name in {*got, *want} if got.get(name) != want.get(name)},
        key=lambda name: (name.endswith("RECORD"), name),
    )


def rows(text: bytes) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = {}
    for row in csv.reader(text.decode().splitlines()):
        if row:
            found.setdefault(row[0], []).append(row[1:])
    return found


def other_keys(found: bytes, must: bytes) -> list[str]:
    """Where two JSON documents differ, as ``files[3].sha256``."""
    try:
        return list(paths(json.loads(found), json.loads(must), ""))
    except (ValueError, RecursionError):
        return ["no JSON"]


def paths(got: Any, want: Any, here: str) -> list[str]:
    if isinstance(got, dict) and isinstance(want, dict):
        keys = sorted({*got, *want})
        pairs = [
            (f"{here}.{key}" if here else key, key in got and key in want, key) for key in keys
        ]
        return [
            path
            for name, both, key in pairs
            for path in (paths(got[key], want[key], name) if both else [name])
        ]
    if isinstance(got, list) and isinstance(want, list):
        found = [
            path
            for n, (a, b) in enumerate(zip(got, want, strict=False))
            for path in paths(a, b, f"{here}[{n}]")
        ]
        longer = [] if len(got) == len(want) else [f"{here}[{min(len(got), len(want))}]"]
        return found + longer
    return [] if got == want and type(got) is type(want) else [here]


def first_line(found: bytes, must: bytes) -> str:
    """The first line that differs."""
    got, want = found.split(b"\n"), must.split(b"\n")
    for number, (a, b) in enumerate(zip(got, want, strict=False), 1):
        if a != b:
            return f"line {number} is {escaped(a[:80])}, not {escaped(b[:80])}"
    if len(got) != len(want):
        return f"it has {len(got)} lines, not {len(want)}"
    return ""
