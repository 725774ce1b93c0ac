# SPDX-License-Identifier: Apache-2.0
"""Try every parser of the recipe with inputs made from real ones.

  python -m tests.fuzz --inputs 100000 --write     all of them, and the rows of docs/fuzzing.md
  python -m tests.fuzz --only bases,patch          some, with 1,000 inputs each

PYTHON has requirements/test.lock installed. What makes a parser fall over is kept in --keep, an
input and a traceback for each kind. Ends with 1 if there is any.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.parser import ROOT, Parser

if TYPE_CHECKING:
    from tests.fuzz.trial import Tried

PAGE = ROOT / "docs" / "fuzzing.md"
HEAD = "| parser | inputs | taken | fell over |\n|---|---|---|---|\n"
TABLE_ENDS = "\n\n"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", allow_abbrev=False)
    parser.add_argument("--inputs", type=int, default=1000, help="for each parser")
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="what fell over")
    parser.add_argument("--write", action="store_true", help="write the table of docs/fuzzing.md")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(arguments)
    from tests.fuzz.trial import clear, tried

    parsers = instrumented()
    names = [one for one in options.only.split(",") if one] or list(parsers)
    clear(options.keep)
    found = []
    for name in names:
        start = time.monotonic()
        one = tried(parsers[name], options.inputs, options.seed, options.keep.resolve())
        found.append(one)
        if options.write:
            PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), one), encoding="utf-8")
        seconds = time.monotonic() - start
        print(f"{name}: {one.inputs:,} inputs, {one.accepted:,} taken, ", end="", file=sys.stderr)
        print(f"{len(one.faults)} kinds of fall, {seconds:.0f} s", file=sys.stderr, flush=True)
        for kind, place in one.faults.items():
            print(f"  {kind}: {options.keep}/{name}/{place}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    return int(any(one.faults for one in found))


def instrumented() -> dict[str, Parser]:
    """The parsers, imported so that atheris sees which branches of the recipe an input takes."""
    import atheris

    with (
        contextlib.redirect_stderr(io.StringIO()),  # a line for each module
        atheris.instrument_imports(include=["recipe"], enable_loader_override=False),
    ):
        from tests.fuzz.parsers import PARSERS
    return PARSERS


def written(page: str, one: Tried) -> str:
    """The page with this row in the place of the parser's own; a run that is ended in the middle
    leaves what it has tried."""
    before, _, rest = page.partition(HEAD)
    table, _, after = rest.partition(TABLE_ENDS)
    rows = {line.split("`")[1]: line for line in table.splitlines()} | {one.name: row(one)}
    return before + HEAD + "\n".join(rows.values()) + TABLE_ENDS + after


def row(one: Tried) -> str:
    fell = "; ".join(one.faults) or "none"
    return f"| `{one.name}` | {one.inputs:,} | {one.accepted:,} | {fell} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
