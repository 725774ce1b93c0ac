# SPDX-License-Identifier: Apache-2.0
"""From a clone to a first changed patch: CONTRIBUTING.md's walk, typed as it stands, and timed.

python -m benchmarks.first_patch

The clone is of this checkout's last commit, the home folder and with it the cache are new ones, so
everything is fetched.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import tables

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Typed:
    """A line of a walk, how it ended and how long it took."""

    line: str
    status: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Walked:
    """The lines that were typed, up to the first that failed, and all that they printed."""

    typed: tuple[Typed, ...]
    output: str


def first_block(page: Path) -> list[str]:
    """The lines of a page's first block of commands."""
    found = re.search(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    if found is None:
        raise SystemExit(f"{page.name} shows no block of commands")
    return [line for line in found[1].splitlines() if line.strip()]


def walk(lines: list[str], folder: Path, variables: Mapping[str, str]) -> Walked:
    """Type lines into one shell in a folder, with these variables beside the caller's own."""
    read, write = os.pipe()
    script = ""
    for line in lines:
        script += f"{line}\nended=$?; echo $ended $EPOCHREALTIME >&{write}\n"
        script += "[ $ended = 0 ] || exit 1\n"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "SM12X_", "XDG_"))}
    start = f"echo 0 $EPOCHREALTIME >&{write}\n"
    done = subprocess.run(
        ["bash", "-c", start + script],
        cwd=folder,
        env={**clean, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[write],
        text=True,
        check=False,
    )
    os.close(write)
    with open(read, encoding="utf-8") as notes:  # noqa: PTH123
        ends = [line.split() for line in notes]
    times = [float(time.replace(",", ".")) for _, time in ends]
    typed = tuple(
        Typed(line=line, status=int(status), seconds=now - before)
        for line, (status, _), before, now in zip(lines, ends[1:], times, times[1:], strict=False)
    )
    return Walked(typed=typed, output=done.stdout)


def main() -> int:
    lines = first_block(ROOT / "CONTRIBUTING.md")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        home.mkdir()
        typed = [line.replace("clone URL", f"clone {ROOT}") for line in lines]
        walked = walk(typed, Path(name), {"HOME": str(home)})
    rows = [(line, f"{one.seconds:.1f}") for one, line in zip(walked.typed, lines, strict=False)]
    rows.append(("all of it", f"{sum(one.seconds for one in walked.typed):.1f}"))
    print(tables.text(("line", "seconds"), rows))
    if len(walked.typed) < len(lines) or walked.typed[-1].status:
        print(walked.output, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
