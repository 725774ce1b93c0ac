# SPDX-License-Identifier: Apache-2.0
"""A made-up matrix that is hard on a page: forty releases, all six states, hostile text."""

from __future__ import annotations

from recipe.follow.matrix.table import Cell, CellState, Matrix

BASES = tuple(f"v1.{minor}.{patch}" for minor in range(20) for patch in range(2))
HOSTILE = (
    "<script>alert(1)</script>",
    "</style></code><img src=https://evil.example/x onerror=alert(2)>",
    "a\"b'c&amp;<b>&lt;",
    "csrc/<iframe src='//evil.example'>.cu:12 (both changed it)",
    'x.py:7 " onmouseover="alert(3)',
    "nul \0, escape \x1b[31m, half \udcff, turned \u202egnp.exe, line \u2028 end",
    "javascript:alert(4)",
)
LONG_PATH = "/".join(["csrc", *["a_folder_with_a_rather_long_name"] * 7, "kernel.cuh"]) + ":1234"
LONG_WORD = "unbroken" * 60


def hard_matrix() -> Matrix:
    """Six ordinary topics, a short and a very long name among them, and one of hostile text."""
    topics = {
        "marlin-archs": marlin,
        "x": conflicts,
        "a-topic-with-a-very-long-name-that-no-column-has-room-for": moves,
        "taken": taken,
        "never": never,
        "<img/src='x' onerror=alert(5)>": hostile,
    }
    cells = (make(topic, base, n) for n, base in enumerate(BASES) for topic, make in topics.items())
    return Matrix(bases=BASES, cells=tuple(cells))


def cell(
    topic: str,
    base: str,
    state: CellState,
    *evidence: str,
    patch: str | None = None,
    place: str = "",
) -> Cell:
    return Cell(base=base, topic=topic, patch=patch, state=state, evidence=evidence, place=place)


def marlin(topic: str, base: str, n: int) -> Cell:
    """Applies by two patches, merges on a few releases, conflicts on the last two."""
    patch = f"vllm/{topic}.patch" if n < 20 else f"vllm/{topic}-1.10.patch"
    if n < 30:
        return cell(topic, base, CellState.APPLIES, "CMakeLists.txt:358", patch=patch)
    if n < 38:
        evidence = ("merged, from v1.14.1", f"look: upstream changed {LONG_PATH}, next to it")
        return cell(topic, base, CellState.NEEDS_REBASE, *evidence, patch=patch)
    evidence = (f"{LONG_PATH} (both changed it)", "CMakeLists.txt:360 (both changed it)")
    return cell(topic, base, CellState.CONFLICT, *evidence, patch=patch, place=LONG_PATH)


def conflicts(topic: str, base: str, n: int) -> Cell:
    """A conflict whose place no evidence names, different on every release."""
    seen = ("it applies exactly on no pinned release", f"attempt {n}")
    return cell(topic, base, CellState.CONFLICT, *seen, patch="vllm/x.patch", place=f"a.py:{n + 1}")


def moves(topic: str, base: str, n: int) -> Cell:
    """Applies everywhere, one hunk at another line each time and one that stays."""
    seen = (f"vllm/envs.py:{100 + n} (+{n} lines)", f"{LONG_PATH}")
    return cell(topic, base, CellState.APPLIES, *seen, patch=f"vllm/{topic}.patch")


def taken(topic: str, base: str, n: int) -> Cell:
    """Upstream took it, and changed it later."""
    if n < 5:
        return cell(topic, base, CellState.APPLIES, "vllm/a.py:3", patch="vllm/taken.patch")
    lines = ("upstream has it since v1.2.1", "it still has what v1.2.1 brought:")
    source = tuple(f"vllm/a.py:{number} if {LONG_WORD}[{number}]:" for number in range(3, 9))
    if n < 33:
        return cell(topic, base, CellState.UPSTREAMED, *lines, *source, "vllm/b.py:1 import a")
    gone = (lines[0], f"{source[0]} is gone")
    return cell(topic, base, CellState.UPSTREAMED_CHANGED, *gone)


def never(topic: str, base: str, n: int) -> Cell:
    why = "not needed on >=1.0: see patches/vllm/never.patch"
    return cell(topic, base, CellState.NOT_NEEDED, why)


def hostile(topic: str, base: str, n: int) -> Cell:
    """Each state with hostile text wherever a text goes."""
    state = list(CellState)[n % len(CellState)]
    return cell(topic, base, state, *HOSTILE, patch=f"vllm/{HOSTILE[1]}", place=HOSTILE[3])


def tall_matrix(topics: int) -> Matrix:
    """More topics than a sheet of paper has lines."""
    bases = BASES[:4]
    cells = (never(f"topic-{n}", base, n) for base in bases for n in range(topics))
    return Matrix(bases=bases, cells=tuple(cells))
