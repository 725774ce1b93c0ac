# SPDX-License-Identifier: Apache-2.0
"""Write docs/paths.md: who computes sparse MLA on SM12x, on every pinned release, and why.

PYTHONPATH=overlay/vllm PYTHON -m benchmarks.paths, or --check to compare and write nothing. It asks
the overlay, which looks at the layouts of FlashInfer's wheels: see benchmarks/flashinfer_wheels.py.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from vllm.sm12x.support.choice import Route
from vllm.sm12x.support.flashinfer import look_at, shapes_in
from vllm.sm12x.support.models import KINDS, Row, paths

from tests.overlay.flashinfer_wheels import PINS, install

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "paths.md"
HEAD = """\
# Who computes sparse MLA on SM12x

On devices of capability 12.0 and 12.1, with the FlashInfer that each release pins and no knob set.
`triton` is the overlay's kernels, `upstream` is vLLM's own path through FlashInfer, `none` is a
model that nobody serves there. A number is a reason below; `with drafts` is with speculative
decoding, where that differs. On other devices everything is upstream's. With decode context
parallelism the overlay hands on the LSE of upstream's path as well; where it says `none`, serve
with `--decode-context-parallel-size 1`.

`python -m vllm.sm12x.doctor --device 12.1` says the same of what is installed, on any machine, and
`VLLM_TRITON_MLA_SPARSE` chooses by hand. This page is written by two commands, after `bases add`:
`python -m benchmarks.flashinfer_wheels` reads the wheels, `PYTHONPATH=overlay/vllm python -m
benchmarks.paths` writes it, both with the Python of the tests (`.venv/test-*`).

"""


def rows_of(tag: str) -> tuple[Row, ...]:
    """The paths on GB10 with what a release pins."""
    with tempfile.TemporaryDirectory() as folder:
        package = install(Path(folder), PINS[tag])
        return paths(
            vllm_version=tag, found=look_at([package]), shapes=shapes_in([package]),
            is_cuda=True, capability=(12, 1), forced=None,
        )  # fmt: skip


def told(row: Row, reasons: dict[str, int]) -> str:
    """A path and the number of its reason; nothing speaks against upstream's where it is taken."""
    choice = row.choice
    if choice.path is Route.UPSTREAM:
        return str(choice.path.value)
    number = reasons.setdefault(choice.why, len(reasons) + 1)
    return f"{choice.path.value} ({number})"


def cells(rows: Iterable[Row], reasons: dict[str, int]) -> Iterator[str]:
    for _, pair in itertools.groupby(rows, key=lambda row: row.model):
        plain, drafts = (told(row, reasons) for row in pair)
        yield plain if plain == drafts else f"{plain}, with drafts {drafts}"


def page() -> str:
    """The whole page."""
    reasons: dict[str, int] = {}
    names = [kind.name for kind in KINDS]
    lines = [
        f"| vLLM | FlashInfer | {' | '.join(names)} |",
        "|---" * (len(names) + 2) + "|",
    ]
    for tag, pin in PINS.items():
        lines.append(f"| {tag} | {pin} | {' | '.join(cells(rows_of(tag), reasons))} |")
    lines += ["", "Reasons:", ""]
    lines += [f"{number}. {why}" for why, number in reasons.items()]
    return HEAD + "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or compare it: 0 where it is as it would be written, 1 where it isn't."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    found = page()
    if parser.parse_args().check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == found
        print("as it is" if same else f"{PAGE.name} isn't what the overlay decides")
        return 0 if same else 1
    PAGE.write_text(found, encoding="utf-8", newline="\n")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
