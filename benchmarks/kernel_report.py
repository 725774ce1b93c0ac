# SPDX-License-Identifier: Apache-2.0
"""The machine code of every kernel next to that of vLLM's own, against what it may cost.

python -m benchmarks.kernel_report [--no-upstream]; no GPU is needed, but Triton, a CPU build of
torch, nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm are. It ends with 6 if a kernel misses a goal
or costs more than benchmarks/kernel_budget.json allows, and with 8 if a tool is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import kept, sass, tables

if TYPE_CHECKING:
    from benchmarks.compiled import Build, Measured

ROOT = Path(__file__).resolve().parent.parent
BUDGET = ROOT / "benchmarks" / "kernel_budget.json"
DOCUMENT = ROOT / "docs" / "kernels.md"
CAPABILITIES = (120, 121)
REGRESSION, TOOL_MISSING = 6, 8
# A compiler of the same version gives the same code; this leaves room for its patch releases.
SLACK = 1.03
SHARED_LIMIT = 99 * 1024
# Bytes a thread: with 32 heads all 255 registers are taken.
STACK_LIMIT = 64
# Instructions of a loop that touch it, of more than 1100: addresses that V4's 32 heads read back.
LOCAL = {"3.7": 7, "3.8": 8}
# Beside attention none has a stack, but for two with 3.7 on sm_121.
OTHERS_STACK = {"3.7": 16}
# Issue cycles an entry for a block of 16 or 32 heads; a block of V3.2's has 15 % more to do. They
# hold whatever the budget is; that is on the floor, which is what time follows.
DECODE_CYCLES = {16: 67.0, 32: 80.0}
PREFILL_CYCLES = {16: 25.0, 32: 45.0}
# Issue cycles a key and query of the indexer's; Triton 3.6 has FP8 products on sm_120 alone.
LOGITS_CYCLES = {120: 5.0, 121: 7.0}
HEAD = (
    "kernel", "regs", "stack", "spills", "shared KiB", "MMA done/useful", "wide loads",
    "async copies", "barriers", "issue", "tensor", "stalls", "floor", "at 32 heads", "phases",
)  # fmt: skip


# What the budget holds of a kernel.
COSTS = ("floor", "tensor", "shared", "barriers", "local")


@dataclass(frozen=True, kw_only=True)
class Result:
    """A kernel, its code, and whether it is one of ours."""

    build: Build
    found: Measured
    ours: bool


def goals_missed(capability: int, build: Build, found: Measured, version: str) -> list[str]:
    """What the code of one of our kernels must keep to; `version` of Triton made it."""
    if build.family != "attention":
        return others_missed(capability, build, found, version)
    prefill = "prefill" in build.label
    cycles = (PREFILL_CYCLES if prefill else DECODE_CYCLES)[build.heads]
    limits = {
        "stack": (found.stack, 0 if prefill else STACK_LIMIT),
        "local accesses": (found.local, 0 if prefill else LOCAL.get(version, 0)),
        "shared memory": (found.shared, SHARED_LIMIT),
        "MMA done/useful": (found.mma_ratio, 1.0 if prefill else 1.125),
        "issue cycles an entry": (found.cycles, cycles * (1.15 if "V3.2" in build.label else 1.0)),
        "barriers": (found.barriers, 40),
        "narrow loads": (found.narrow, 16),
    }
    missed = [
        f"{name} {has:.4g} > {most:.4g}" for name, (has, most) in limits.items() if has > most
    ]
    if found.wide < 0.8:
        missed.append(f"16-byte loads {found.wide:.0%} < 80%")
    if not found.copies:
        missed.append("no asynchronous copies")
    return missed


def others_missed(capability: int, build: Build, found: Measured, version: str) -> list[str]:
    """The same for the kernels beside attention."""
    missed = []
    most = OTHERS_STACK.get(version, 0)
    if found.stack > most or (found.local and not most):
        missed.append(f"stack {found.stack} > {most}")
    if found.shared > SHARED_LIMIT:
        missed.append(f"shared memory {found.shared} > {SHARED_LIMIT}")
    if found.wide < 0.8:
        missed.append(f"16-byte loads {found.wide:.0%} < 80%")
    if not found.copies:
        missed.append("no asynchronous copies")
    if found.tf32:
        missed.append("products in TF32")
    if build.family == "logits" and found.cycles > LOGITS_CYCLES[capability]:
        missed.append(f"issue cycles a key {found.cycles:.4g} > {LOGITS_CYCLES[capability]}")
    if build.family != "prenorm" and found.mma_ratio > 1:
        missed.append(f"MMA done/useful {found.mma_ratio:.4g} > 1")
    if build.family != "prenorm" and capability == 120 and not found.fp8:
        missed.append("no FP8 matrix instructions")
    return missed


def regressions(found: Measured, budget: dict[str, float]) -> list[str]:
    """What costs more than the budget, which was measured with the same compiler."""
    has = asdict(found)
    return [
        f"{name} {has[name]:.4g} > {most:.4g}"
        for name, most in budget.items()
        if has[name] > most * SLACK
    ]


def row(result: Result) -> tuple[str, ...]:
    build, found = result.build, result.found
    whole = "–"
    if build.family == "attention":
        whole = f"{found.floor * max(1, 32 // build.heads):.1f}"
    return (
        build.label, str(found.registers), str(found.stack), str(found.local),
        f"{found.shared / 1024:.1f}", f"{found.mma_ratio:.3f}", f"{found.wide:.0%}",
        str(found.copies), str(found.barriers), f"{found.cycles:.1f}", f"{found.tensor:.1f}",
        f"{found.stalls:.1f}", f"{found.floor:.1f}", whole, phases(result),
    )  # fmt: skip


def phases(result: Result) -> str:
    """Dequantise, QK, softmax, PV; where nothing is dequantised the first is waiting for copies."""
    if result.build.family != "attention":
        return "–"
    return " + ".join(f"{cycles:.0f}" for cycles in result.found.phases.values())


def find_overlay() -> None:
    """The overlay of this checkout, unless vLLM is installed with one."""
    vllm = importlib.util.find_spec("vllm")
    folders = vllm.submodule_search_locations if vllm else None
    if not any((Path(folder) / "sm12x").is_dir() for folder in folders or ()):
        sys.path.append(str(ROOT / "overlay" / "vllm"))


def measure_all(
    *, upstream: bool, only: str = "", keep: Path | None = None
) -> dict[int, list[Result]]:
    """Our kernels whose labels the pattern `only` finds, and vLLM's if asked for, by capability.

    keep: where what is measured of ours is kept, and read if nothing that decides it has changed.
    """
    from benchmarks.our_kernels import our_builds

    builds = {capability: list(our_builds(capability)) for capability in CAPABILITIES}
    places = [
        (capability, place)
        for capability, several in builds.items()
        for place, build in enumerate(several)
        if re.search(only, build.label)
    ]
    results: dict[int, list[Result]] = {capability: [] for capability in CAPABILITIES}
    for (capability, place), code in zip(places, kept_or_measured(places, keep), strict=True):
        build = builds[capability][place]
        results[capability].append(Result(build=build, found=code, ours=True))
    if upstream:
        measure_upstreams(results)
    return results


def kept_or_measured(places: list[tuple[int, int]], keep: Path | None) -> list[Measured]:
    """What the code of our kernels says, in their order."""
    from benchmarks.compiled import Measured

    inputs = inputs_of(places) if keep else ""
    found = kept.read(keep, inputs) if keep else None
    if found is not None:
        print(f"as measured before: {keep}/{inputs}.json", file=sys.stderr)
        return [Measured(**one) for one in found]
    # Triton takes seconds for some kernels.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        codes = list(pool.map(measure_ours, *zip(*places, strict=True)))
    if keep:
        kept.write(keep, inputs, [asdict(code) for code in codes])
    return codes


def inputs_of(places: list[tuple[int, int]]) -> str:
    """The digest of all that decides what is measured: our modules, Triton and the tools."""
    import triton

    tools = sass.tools()
    files = dict(kept.our_modules(sys.modules))
    files[Path(__file__).name] = Path(__file__)
    files |= kept.files_below(Path(triton.__file__).parent)
    files |= {f"tool {path.name}": path for path in tools}
    return kept.digest([triton.__version__, *map(str, places)], files)


def measure_upstreams(results: dict[int, list[Result]]) -> None:
    from benchmarks.compiled import measure
    from benchmarks.upstream_kernels import upstream_builds

    with tempfile.TemporaryDirectory() as folder:
        for build in upstream_builds(Path(folder)):
            for capability in CAPABILITIES:
                code = measure(build, capability)
                results[capability].append(Result(build=build, found=code, ours=False))


def measure_ours(capability: int, place: int) -> Measured:
    """One of our kernels, in a process that has imported nothing yet."""
    find_overlay()
    from benchmarks.compiled import measure
    from benchmarks.our_kernels import our_builds

    return measure(list(our_builds(capability))[place], capability)


def judge(version: str, results: dict[int, list[Result]]) -> list[str]:
    """A line for each goal that is missed and each cost above the budget of this compiler."""
    budget = json.loads(BUDGET.read_text(encoding="utf-8")).get(version, {})
    return [
        f"{name(capability, result)}: {reason}"
        for capability, several in results.items()
        for result in several
        if result.ours
        for reason in (
            *goals_missed(capability, result.build, result.found, version),
            *regressions(result.found, budget.get(name(capability, result), {})),
        )
    ]


def name(capability: int, result: Result) -> str:
    return f"sm_{capability} {result.build.label}"


def write_budget(version: str, results: dict[int, list[Result]]) -> None:
    """Take what our kernels cost now as what they may cost with this compiler.

    A kernel that wasn't measured keeps its budget.
    """
    budgets = json.loads(BUDGET.read_text(encoding="utf-8")) if BUDGET.exists() else {}
    budgets[version] = budgets.get(version, {}) | {
        name(capability, result): {cost: asdict(result.found)[cost] for cost in COSTS}
        for capability, several in results.items()
        for result in several
        if result.ours
    }
    BUDGET.write_text(json.dumps(dict(sorted(budgets.items())), indent=1) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--no-upstream", action="store_true", help="leave vLLM's kernels out")
    parser.add_argument("--only", default="", metavar="PATTERN", help="only kernels named so")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what is measured there")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument("--write-budget", action="store_true", help="take what is as the budget")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs")
    options = parser.parse_args()
    find_overlay()
    import triton

    from benchmarks.sass import ToolError

    try:
        results = measure_all(
            upstream=not options.no_upstream, only=options.only, keep=options.keep
        )
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return TOOL_MISSING
    version = ".".join(triton.__version__.split(".")[:2])
    if options.write_budget:
        write_budget(version, results)
    failed = judge(version, results)
    if options.json:
        kernels = [
            {"kernel": r.build.label, "target": f"sm_{c}", "ours": r.ours, **asdict(r.found)}
            for c, several in results.items()
            for r in several
        ]
        print(json.dumps({"triton": triton.__version__, "kernels": kernels, "failed": failed}))
    for capability, several in results.items():
        rows = [row(result) for result in several]
        if not options.json:
            print(f"sm_{capability}, Triton {triton.__version__}")
            print(tables.text(HEAD, rows), end="\n\n")
        if options.write_docs:
            tables.put(DOCUMENT, f"sm_{capability}", tables.markdown(HEAD, rows))
    for line in failed:
        print("FAILED", line, file=sys.stderr)
    return REGRESSION if failed else 0


if __name__ == "__main__":
    sys.exit(main())
