# SPDX-License-Identifier: Apache-2.0
"""Predicted time of sparse attention per layer, for models and devices that aren't here.

python -m benchmarks.roofline [--write-docs | --check] [--json]. A prediction isn't a measurement:
it is the longest of what memory, L2, tensor cores and a program's own instructions need by
themselves, and a fixed cost per launch. Instructions count by the floors in
benchmarks/kernel_budget.json, which are bounds: no SM can be sooner done with a tile. Peaks of
devices are their makers'. How fast L2 is, how long memory takes to answer, what a launch and a
program's start cost are guesses, and so are the times that they decide.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from benchmarks import tables
from benchmarks.kernel_report import BUDGET, DOCUMENT, REGRESSION, find_overlay
from benchmarks.sass import MMA_CYCLES

if TYPE_CHECKING:
    from vllm.sm12x.kernels.tiles import Plan

# What a small kernel takes inside a captured graph even if it does nothing.
LAUNCH_US = 2.0
# Cycles before a program's first tile and after its last: queries, first copies, output.
START_CYCLES = 3000
# Seconds between a copy's issue and its bytes, and bytes that an SM gets of L2 a cycle.
LATENCY = 0.8e-6
L2_BYTES_PER_CYCLE = 32
ROWS = (1, 32, 256)
HEAD = (
    "layer", "heads", "rows", "KiB", "programs", "memory µs", "L2 µs", "MMA µs", "floor µs",
    "longest", "over DRAM", "predicted µs",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Device:
    """Peak figures. `mma` is in operations a second, bfloat16 with float32 sums, dense."""

    name: str
    capability: int
    bandwidth: float
    sms: int
    mma: float
    clock: float
    l2_bytes: int
    mma_cycles: int = 16


DEVICES = (
    Device(
        name="GB10", capability=121, bandwidth=273e9, sms=48, mma=118e12, clock=2.4e9,
        l2_bytes=24 << 20,
    ),
    Device(
        name="RTX PRO 6000", capability=120, bandwidth=1792e9, sms=188, mma=501e12, clock=2.6e9,
        l2_bytes=128 << 20,
    ),
    Device(
        name="RTX 5090", capability=120, bandwidth=1792e9, sms=170, mma=210e12, clock=2.41e9,
        l2_bytes=96 << 20, mma_cycles=32,
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One kind of layer: `widths` entries of its scopes, `width` numbers of a query."""

    name: str
    heads: int
    widths: tuple[int, ...]
    entry_bytes: int
    width: int


# V4 attends to a window of 128; in C4A layers to the indexer's picks as well, in C128A layers to a
# state for each 128 tokens, of which 128 K tokens make 1024.
LAYERS = (
    Layer(name="V4-Flash SWA", heads=64, widths=(128,), entry_bytes=584, width=512),
    Layer(name="V4-Flash C4A", heads=64, widths=(128, 512), entry_bytes=584, width=512),
    Layer(name="V4-Flash C128A", heads=64, widths=(128, 1024), entry_bytes=584, width=512),
    Layer(name="V4-Pro SWA", heads=128, widths=(128,), entry_bytes=584, width=512),
    Layer(name="V4-Pro C4A and C128A", heads=128, widths=(128, 1024), entry_bytes=584, width=512),
    Layer(name="V3.2", heads=128, widths=(2048,), entry_bytes=656, width=576),
    Layer(name="GLM-5.2", heads=64, widths=(2048,), entry_bytes=656, width=576),
)


class Bound(StrEnum):
    """What a layer waits for."""

    MEMORY = "memory"
    MMA = "MMA"
    L2 = "L2"
    FLOOR = "floor"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Times in microseconds; `total` is the longest of the four and the launches.

    `over_dram` is the longest over what DRAM alone would take at its full bandwidth.
    """

    layer: str
    device: str
    heads: int
    rows: int
    bytes: int
    programs: int
    memory: float
    l2: float
    mma: float
    floor: float
    bound: Bound
    over_dram: float
    total: float


def predict(layer: Layer, device: Device, plan: Plan, *, heads: int, rows: int) -> Prediction:
    """One layer with so many of its heads on this device, every row with all its entries."""
    entries = sum(layer.widths)
    moved = rows * (entries * layer.entry_bytes + heads * 2 * (layer.width + 512))
    # Outputs of the splits go out and come back as float32, unless L2 keeps them.
    parts = rows * plan.splits * heads * 512 * 4 if plan.splits > 1 else 0
    moved += 2 * parts if parts > device.l2_bytes / 2 else 0
    programs = rows * plan.head_blocks * plan.splits
    tile = plan.tile
    tiles = sum(-(-width // tile.block_entries) for width in layer.widths)
    each = -(-tiles // plan.splits) * tile.block_entries
    turns = -(-programs // (device.sms * tile.ctas_per_sm))
    work = each * _floor(layer, device, tile.block_heads) + START_CYCLES
    # Every block of heads reads a row's entries; a tile of each program is on its way at a time.
    read = rows * plan.head_blocks * entries * layer.entry_bytes
    active = min(programs, device.sms * tile.ctas_per_sm)
    flow = active * tile.block_entries * layer.entry_bytes / LATENCY
    times = {
        Bound.MEMORY: moved / min(device.bandwidth, flow),
        Bound.L2: read / (active * L2_BYTES_PER_CYCLE * device.clock),
        Bound.MMA: 2 * rows * heads * (layer.width + 512) * entries / device.mma,
        Bound.FLOOR: turns * work / device.clock,
    }
    bound = max(times, key=lambda limit: times[limit])
    launches = 2 if plan.splits > 1 else 1
    micros = {limit: 1e6 * seconds for limit, seconds in times.items()}
    return Prediction(
        layer=layer.name,
        device=device.name,
        heads=heads,
        rows=rows,
        bytes=moved,
        programs=programs,
        memory=micros[Bound.MEMORY],
        l2=micros[Bound.L2],
        mma=micros[Bound.MMA],
        floor=micros[Bound.FLOOR],
        bound=bound,
        over_dram=times[bound] * device.bandwidth / moved,
        total=micros[bound] + launches * LAUNCH_US,
    )


def _floor(layer: Layer, device: Device, block_heads: int) -> float:
    """The least cycles an entry, the worst of the kernels and compilers that serve such a layer."""
    budgets: dict[str, dict[str, dict[str, float]]]
    budgets = json.loads(BUDGET.read_text(encoding="utf-8"))
    kind = "V4" if layer.entry_bytes == 584 else "V3.2"
    start, end = f"sm_{device.capability} {kind}, ", f", {block_heads} heads"
    return max(
        max(cost["floor"], cost["tensor"] * device.mma_cycles / MMA_CYCLES)
        for costs in budgets.values()
        for name, cost in costs.items()
        if name.startswith(start) and name.endswith(end)
    )


def predictions(device: Device) -> Iterator[Prediction]:
    """Each layer with all its heads and with a half (tensor parallel), for each number of rows."""
    from vllm.sm12x.kernels import tiles

    family = tiles.Family(f"sm_{device.capability}")
    facts = tiles.Device(family=family, sms=device.sms, l2_bytes=device.l2_bytes)
    for layer in LAYERS:
        v4 = layer.entry_bytes == 584
        kernel = tiles.Kernel.DECODE_V4 if v4 else tiles.Kernel.DECODE_V32
        for heads in (layer.heads, layer.heads // 2):
            for rows in ROWS:
                plan = tiles.plan(kernel, facts, rows=rows, heads=heads, widths=layer.widths)
                yield predict(layer, device, plan, heads=heads, rows=rows)


def row(found: Prediction) -> tuple[str, ...]:
    return (
        found.layer, str(found.heads), str(found.rows), f"{found.bytes / 1024:.0f}",
        str(found.programs), f"{found.memory:.2f}", f"{found.l2:.2f}", f"{found.mma:.2f}",
        f"{found.floor:.2f}", found.bound, f"{found.over_dram:.1f}", f"{found.total:.1f}",
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs")
    parser.add_argument("--check", action="store_true", help="end with 6 if docs say otherwise")
    options = parser.parse_args()
    find_overlay()
    stale = []
    found = {device: list(predictions(device)) for device in DEVICES}
    if options.json:
        print(json.dumps([asdict(one) for several in found.values() for one in several]))
        return 0
    for device, several in found.items():
        rows = [row(one) for one in several]
        print(f"{device.name}\n{tables.text(HEAD, rows)}\n")
        table = tables.markdown(HEAD, rows)
        if options.write_docs:
            tables.put(DOCUMENT, device.name, table)
        elif options.check and table not in DOCUMENT.read_text(encoding="utf-8"):
            stale.append(device.name)
    if stale:
        print(f"FAILED {DOCUMENT.name} has other tables of {', '.join(stale)}", file=sys.stderr)
    return REGRESSION if stale else 0


if __name__ == "__main__":
    sys.exit(main())
