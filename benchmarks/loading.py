# SPDX-License-Identifier: Apache-2.0
"""How fast a checkpoint loads, what is read for it, and what memory it takes.

python -m benchmarks.loading [--gib N] [--json] [--write-docs]. A synthetic mixture of experts is
written, and each way to load it runs cold (evicted, which mincore confirms) for 1, 2, 4 and 8 ranks
with tensor-parallel slices and expert parallelism, in turns, some rounds. Ratios are medians of
each round's: bytes to those needed, CPU and wall time to lazy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import tables
from benchmarks.kernel_report import find_overlay
from benchmarks.loading_checkpoint import weights, write
from benchmarks.loading_methods import METHODS, why_not
from benchmarks.loading_places import device_of, looped
from benchmarks.loading_ranks import Measured, Run, run, why_no_limit

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "loading.md"
RANKS = (1, 2, 4, 8)
# Those that have no notion of ranks read all for each.
ALONE = ("runai", "fastsafetensors")
HEAD = (
    "method", "state", "order", "ranks", "limit GiB", "wall s", "wall", "bytes", "worst rank",
    "CPU", "anon MiB", "cache MiB",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """What all methods of one comparison share. `only_rank`: that rank alone is on the node."""

    order: str = "file"
    ranks: int = 1
    limit_gib: float | None = None
    resident: bool = False
    only_rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method in one case; `rss_mib` is anonymous memory besides the parameters."""

    method: str
    order: str
    ranks: int
    limit_gib: float | None
    bytes_ratio: float
    cpu_ratio: float
    wall_ratio: float
    rss_mib: float
    cache_mib: float
    resident: bool
    only_rank: int | None
    wall_s: float
    rank_bytes_ratio: float

    def cells(self) -> list[str]:
        state = "resident" if self.resident else "cold"
        ranks = str(self.ranks)
        if self.only_rank is not None:
            ranks = f"{self.only_rank} of {ranks}"
        return [
            self.method,
            state,
            self.order,
            ranks,
            "-" if self.limit_gib is None else f"{self.limit_gib:g}",
            f"{self.wall_s:.2f}",
            f"{self.wall_ratio:.2f}",
            f"{self.bytes_ratio:.3f}",
            f"{self.rank_bytes_ratio:.3f}",
            f"{self.cpu_ratio:.2f}",
            f"{self.rss_mib:.0f}",
            f"{self.cache_mib:.0f}",
        ]


def cases(gib: float, *, limits: bool) -> Iterator[Case]:
    """Yield the comparisons for a checkpoint of so many GiB."""
    for ranks in RANKS:
        yield Case(ranks=ranks)
    yield Case(order="shuffled")
    yield Case(ranks=8, only_rank=3)
    if limits:
        for ranks in (1, 8):
            yield Case(ranks=ranks, limit_gib=round(gib * 0.4, 3))
    yield Case(resident=True)


def methods(case: Case, asked: Sequence[str]) -> list[str]:
    """Return those of the methods that make sense in a case."""
    if case.resident:
        return ["lazy", "policy", *(m for m in asked if m in ("window", "stream"))]
    if case.only_rank is not None:
        return [m for m in asked if m in ("lazy", "window", "stream")]
    alone = case.ranks == 1 and case.limit_gib is None
    return [m for m in asked if alone or m not in ALONE]


def measure(
    case: Case, files: list[str], gib: float, asked: Sequence[str], rounds: int
) -> Iterator[Row]:
    """Run the methods of a case in turns, after one round that doesn't count."""
    chosen = methods(case, asked)
    found: dict[str, list[tuple[Measured, float]]] = {method: [] for method in chosen}
    for number in range(rounds + 1):
        for method in chosen:
            before = prepare(files, resident=case.resident)
            what = Run(
                method=method,
                files=files,
                gib=gib,
                ranks=case.ranks,
                limit_gib=case.limit_gib,
                only_rank=case.only_rank,
            )
            measured = run(what)
            after = cached_bytes(files) - before
            print(f"  {case} {method} {measured.wall:.2f} s", file=sys.stderr)
            if number:
                found[method].append((measured, after / 2**20))
    needed = sum(weight.size for weight in weights(gib))
    for method in chosen:
        yield summarise(case, method, found[method], found["lazy"], needed)


def summarise(
    case: Case,
    method: str,
    mine: Sequence[tuple[Measured, float]],
    lazy: Sequence[tuple[Measured, float]],
    needed: int,
) -> Row:
    """Medians of what was measured; ratios are taken within each round."""
    pairs = [(one, base) for (one, _), (base, _) in zip(mine, lazy, strict=True)]
    read = statistics.median(one.read for one, _ in mine)
    worst = statistics.median(one.worst for one, _ in mine)
    return Row(
        method=method,
        order=case.order,
        ranks=case.ranks,
        limit_gib=case.limit_gib,
        # A rank that is alone on its node needs what its parameters need.
        bytes_ratio=round(worst if case.only_rank is not None else read / needed, 3),
        cpu_ratio=round(statistics.median(one.cpu / base.cpu for one, base in pairs), 3),
        wall_ratio=round(statistics.median(one.wall / base.wall for one, base in pairs), 3),
        rss_mib=round(statistics.median(one.anonymous for one, _ in mine) / 2**20, 1),
        cache_mib=round(statistics.median(cache for _, cache in mine), 1),
        resident=case.resident,
        only_rank=case.only_rank,
        wall_s=round(statistics.median(one.wall for one, _ in mine), 3),
        rank_bytes_ratio=round(worst, 3),
    )


def prepare(files: list[str], *, resident: bool) -> int:
    """Evict the files, or read them into the page cache; return the bytes that are there now.

    Raises RuntimeError when mincore finds a page that should have gone.
    """
    from vllm.sm12x.loading.files import pages

    if resident:
        for file in files:
            with Path(file).open("rb", buffering=0) as opened:
                while opened.read(16 << 20):
                    pass
        return cached_bytes(files)
    pages.give_back_files(files)
    left = cached_bytes(files)
    if left:
        raise RuntimeError(f"{left} bytes of the checkpoint stay in the page cache: who maps them?")
    return left


def cached_bytes(files: Iterable[str]) -> int:
    """Return the bytes of the files that are in the page cache."""
    from vllm.sm12x.loading.files import pages

    total = 0
    for file in files:
        with Path(file).open("rb", buffering=0) as opened:
            size = Path(file).stat().st_size
            total += (pages.count_resident(opened.fileno(), 0, size) or 0) * pages.PAGE
    return total


def warm_up() -> None:
    """Import what a rank of vLLM has imported before it loads, so that forked ranks have it, too.

    torch imports half of its compiler when a tensor subclass is first used.
    """
    import torch
    from vllm.sm12x.loading.stream import streamed  # noqa: F401
    from vllm.sm12x.loading.stream.lazy import lazy
    from vllm.sm12x.loading.window import mapped  # noqa: F401

    class Nothing:
        start = 0

        def copy(self, view: object, dtype: object, target: object) -> None:
            pass

    torch.empty(2).copy_(lazy(Nothing(), (4,), torch.float32).narrow(0, 1, 2))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", allow_abbrev=False)
    parser.add_argument("--gib", type=float, default=1.0, help="checkpoint in GiB (default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count (default: 3)")
    parser.add_argument("--folder", type=Path, help="where to write it (default: a temporary one)")
    parser.add_argument(
        "--read-ahead", type=int, metavar="KIB",
        help="on a loop device with this read-ahead; needs root (default: the folder's device)",
    )  # fmt: skip
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, help="(default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON (default: a table)")
    parser.add_argument(
        "--write-docs", metavar="NAME", help="put the table NAME into docs/loading.md, too"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parse(arguments)
    find_overlay()
    warm_up()
    chosen = ["lazy", *(m for m in asked.methods if m != "lazy")]
    for method in [m for m in chosen if why_not(m)]:
        print(f"{method} is left out: {why_not(method)}", file=sys.stderr)
        chosen.remove(method)
    limits = not why_no_limit()
    if not limits:
        print(f"no case with too little memory: {why_no_limit()}", file=sys.stderr)
    rows: list[Row] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=asked.folder)))
        if asked.read_ahead is not None:
            place = stack.enter_context(looped(folder, 2.3 * asked.gib + 0.5, asked.read_ahead))
        else:
            place = folder
        files = {}
        for order in ("file", "shuffled"):
            (place / order).mkdir()
            files[order] = write(place / order, asked.gib, shuffled=order == "shuffled")
        device = device_of(place)
        for case in cases(asked.gib, limits=limits):
            rows += measure(case, files[case.order], asked.gib, chosen, asked.rounds)
    print_rows(rows, device, asked)
    return 0


def print_rows(rows: Sequence[Row], device: dict[str, str], asked: argparse.Namespace) -> None:
    cells = [row.cells() for row in rows]
    if asked.write_docs:
        tables.put(DOCUMENT, asked.write_docs, tables.markdown(HEAD, cells))
    if asked.json:
        print(json.dumps({"gib": asked.gib, "device": device, "rows": [asdict(r) for r in rows]}))
    else:
        print(", ".join(f"{key} {value}" for key, value in device.items()))
        print(tables.text(HEAD, cells))


if __name__ == "__main__":
    sys.exit(main())
