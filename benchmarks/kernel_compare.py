# SPDX-License-Identifier: Apache-2.0
"""Two reports of the kernels' machine code side by side, and what costs more in the second.

python -m benchmarks.kernel_compare BEFORE AFTER; both are what `kernel_report --json` printed, of
two commits with the same Triton. It ends with 6 if a kernel of ours costs more after.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import tables

REGRESSION = 6
# Floors and issue move by a few instructions with any change; the others are counts.
COSTS = {
    "registers": 1.0, "stack": 1.0, "local": 1.0, "cycles": 1.01, "floor": 1.01, "shared": 1.0,
    "barriers": 1.0,
}  # fmt: skip
HEAD = ("target", "kernel", *(name.replace("cycles", "issue") for name in COSTS))


def read(path: Path) -> tuple[str, dict[tuple[str, str], dict[str, Any]]]:
    """The Triton of a report, and our kernels in it by target and name."""
    report = json.loads(path.read_text(encoding="utf-8"))
    kernels = {(k["target"], k["kernel"]): k for k in report["kernels"] if k["ours"]}
    return report["triton"], kernels


def compare(
    before: dict[tuple[str, str], dict[str, Any]], after: dict[tuple[str, str], dict[str, Any]]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """A row for each kernel that both have, and a line for each cost that grew."""
    rows, worse = [], []
    for (target, kernel), has in after.items():
        had = before.get((target, kernel))
        if had is None:
            continue
        cells = [
            f"{had[cost]:.4g}" if had[cost] == has[cost] else f"{had[cost]:.4g} -> {has[cost]:.4g}"
            for cost in COSTS
        ]
        rows.append((target, kernel, *cells))
        worse += [
            f"{target} {kernel}: {cost} {had[cost]:.4g} -> {has[cost]:.4g}"
            for cost, slack in COSTS.items()
            # Registers cost nothing while as many programs fit on an SM; a stack does.
            if cost != "registers" and has[cost] > had[cost] * slack
        ]
    return rows, worse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    (triton, before), (other, after) = read(options.before), read(options.after)
    if triton != other:
        print(f"error: one report is of Triton {triton}, the other of {other}", file=sys.stderr)
        return 2
    rows, worse = compare(before, after)
    print(f"Triton {triton}\n{tables.text(HEAD, rows)}")
    for line in worse:
        print("MORE", line, file=sys.stderr)
    return REGRESSION if worse else 0


if __name__ == "__main__":
    sys.exit(main())
