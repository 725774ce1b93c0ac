# SPDX-License-Identifier: Apache-2.0
"""Which model classes hold a checkpoint in memory while they load it, for docs/loading.md.

SM12X_DRAINING=FOLDER python build.py test --base v0.33.0 --test-torch 2.13.0 -- -k holds
python -m benchmarks.draining FOLDER/*.json

The first feeds every class of a release that can be made without a GPU and leaves what it found in
the folder; the second keeps that of each base in benchmarks/draining.json and writes the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from benchmarks import tables

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "benchmarks" / "draining.json"
DOCUMENT = ROOT / "docs" / "loading.md"
# What lets go of each tensor has two: the one before, until the next has been made. A few more are
# those of a layer that are written together.
FEW = 8

Kept = dict[str, dict[str, Any]]


def judge(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept of a release: how many were fed, those that hold, those that couldn't be made.

    `suspects` couldn't be made, and are written so that they may hold all.
    """
    fed = {name: one for name, one in found.items() if "held" in one}
    holding = {
        name: [one["held"], one["given"]]
        for name, one in sorted(fed.items())
        if one["given"] > FEW and (one["held"] > FEW or 2 * one["held"] > one["given"])
    }
    suspects = sorted(name for name, one in found.items() if one.get("suspect"))
    return {"fed": len(fed), "of": len(found), "holding": holding, "suspects": suspects}


def rows(kept: Kept) -> list[list[str]]:
    """A row a class that holds in any release, the worst first within their order by name."""
    names = sorted({name for one in kept.values() for name in one["holding"]})
    return [[f"`{name}`", *(_cell(kept[base], name) for base in ordered(kept))] for name in names]


def _cell(one: Mapping[str, Any], name: str) -> str:
    if name in one["suspects"]:
        return "not made"
    if name not in one["holding"]:
        return "-"
    held, given = one["holding"][name]
    return f"all {given}" if held == given else f"{held} of {given}"


def ordered(kept: Kept) -> list[str]:
    return sorted(kept, key=Version)


def body(kept: Kept) -> str:
    """The table, and a sentence a release."""
    lines = [tables.markdown(("class", *(f"v{base}" for base in ordered(kept))), rows(kept)), ""]
    for base in ordered(kept):
        one = kept[base]
        suspects = ", ".join(f"`{name}`" for name in one["suspects"]) or "none"
        lines.append(
            f"- v{base}: {one['fed']} of {one['of']} classes could be made and were fed. Of the "
            f"others these are written so that they may hold all: {suspects}."
        )
    return "\n".join(lines)


def read_kept() -> Kept:
    kept: Kept = json.loads(KEPT.read_text(encoding="utf-8"))
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.draining", allow_abbrev=False)
    parser.add_argument("files", nargs="*", type=Path, help="what was found, BASE.json")
    asked = parser.parse_args(arguments)
    kept = read_kept() if KEPT.exists() else {}
    for file in asked.files:
        kept[file.stem] = judge(json.loads(file.read_text(encoding="utf-8")))
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    tables.put(DOCUMENT, "draining", body(kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())
