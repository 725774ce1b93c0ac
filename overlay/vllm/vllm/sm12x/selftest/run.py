# SPDX-License-Identifier: Apache-2.0
"""Runs the cases on this machine's GPU, times them there, and prints what came out."""

import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from . import cases, cases_logits, cases_products
from .options import read
from .trials import Runnable

WRONG = 7

WARM_UPS = 3
REPEATS = 15
# Written between two timed calls, so that a cache is read from memory, as in a model's next layer.
FLUSHED_BYTES = 256 << 20
# Attention, then what stands in for DeepGEMM.
GROUPS = (cases, cases_logits, cases_products)
# Bytes a second, where the driver doesn't tell the memory's clock and width.
PEAKS = {"GB10": 273e9, "RTX PRO 6000": 1792e9, "RTX 5090": 1792e9}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One case. Errors are as `verdicts` measures them; `micros` is a median, None if untimed.

    `bandwidth` is in bytes a second, of what the call has to read and write at least; `share` is
    that of the device's peak. `flops` is in operations a second. `failure` is what stopped it.
    """

    case: str
    ok: bool
    error: float | None = None
    lse_error: float | None = None
    squares_error: float | None = None
    micros: float | None = None
    bandwidth: float | None = None
    share: float | None = None
    flops: float | None = None
    failure: str | None = None


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a call in microseconds, by CUDA events, with cold caches."""
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)
    times = []
    for repeat in range(WARM_UPS + REPEATS):
        flushed.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        if repeat >= WARM_UPS:
            times.append(1000 * start.elapsed_time(end))
    return float(statistics.median(times))


def peak_bandwidth(name: str, memory_clock_khz: int, bus_bits: int) -> float | None:
    """Return bytes a second: two transfers a clock, or the table's figure, or None."""
    if memory_clock_khz > 0 and bus_bits > 0:
        return 2 * memory_clock_khz * 1000 * bus_bits / 8
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def listing(*, quick: bool, interpret: bool) -> tuple[Runnable, ...]:
    """Return what is to be run."""
    if interpret:
        return tuple(case for group in GROUPS for case in group.small())
    return tuple(case for group in GROUPS for case in group.every(quick=quick))


def run_case(case: Runnable, device: torch.device, peak: float | None) -> Result:
    """Check a case, and time it where there is a GPU. What it raises makes it a wrong one."""
    try:
        trial = case.trial(device)
        verdict = trial.check()
        micros = time_call(trial.run, device) if device.type == "cuda" else None
    except Exception as problem:  # the compiler's and the driver's are of many classes
        return Result(case=str(case), ok=False, failure=f"{type(problem).__name__}: {problem}")
    bandwidth = 1e6 * trial.moved_bytes / micros if micros else None
    return Result(
        case=str(case),
        **asdict(verdict),
        micros=micros,
        bandwidth=bandwidth,
        share=bandwidth / peak if bandwidth and peak else None,
        flops=1e6 * trial.operations / micros if micros else None,
    )


def obstacle() -> str:
    """Say what keeps the operators from running on this machine's GPU, or nothing."""
    if not torch.cuda.is_available():
        return "no CUDA device is available"
    major, minor = torch.cuda.get_device_capability()
    if torch.version.hip is not None or major != 12:
        name = torch.cuda.get_device_name()
        return f"{name} has capability {major}.{minor}, and the operators are for 12.x"
    return ""


def describe_device() -> tuple[torch.device, str, float | None]:
    """Return the current CUDA device, its name, and its peak bandwidth in bytes a second."""
    device = torch.device("cuda", torch.cuda.current_device())
    found = torch.cuda.get_device_properties(device)
    clock, width = (getattr(found, n, 0) for n in ("memory_clock_rate", "memory_bus_width"))
    return device, found.name, peak_bandwidth(found.name, clock, width)


def line(result: Result) -> str:
    """Return a result as one line of a table."""
    if result.failure is not None:
        return f"WRONG {result.case}: {' '.join(result.failure.split())}"
    timed = ""
    if result.micros and result.bandwidth and result.flops:
        timed = f"{result.micros:9.1f} µs {result.bandwidth / 1e9:6.0f} GB/s"
        timed += f" {result.share:4.0%}" if result.share is not None else ""
        timed += f" {result.flops / 1e12:6.1f} TF/s "
    verdict = "ok" if result.ok else "WRONG"
    second = result.lse_error if result.lse_error is not None else result.squares_error
    also = "" if second is None else f"{second:.1e}"
    return f"{verdict:5} {result.error:8.1e} {also:8} {timed}{result.case}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = read(arguments)
    todo = listing(quick=options.quick, interpret=options.interpret)
    why = "" if options.interpret else obstacle()
    results: list[Result] = []
    device, name, peak = torch.device("cpu"), "Triton's interpreter", None
    if options.interpret:
        from .interpreter import mend

        mend()
    elif not why:
        device, name, peak = describe_device()
    if why:
        _say(f"Nothing was run: {why}. On such a device these would be:", options.json)
        for case in todo:
            _say(f"  {case}", options.json)
    else:
        peak_text = f", {peak / 1e9:.0f} GB/s" if peak else ""
        _say(
            f"{name}{peak_text}; error, that of LSEs or squares, and on a GPU median time:",
            options.json,
        )
        for case in todo:
            results.append(run_case(case, device, peak))
            _say(line(results[-1]), options.json)
    wrong = [result.case for result in results if not result.ok]
    if wrong:
        _say(f"{len(wrong)} of {len(results)} are wrong: {'; '.join(wrong)}", options.json)
    if options.json:
        print(_document(name if not why else None, peak, why, todo, results))
    return WRONG if wrong else 0


def _document(
    device: str | None,
    peak: float | None,
    why: str,
    todo: tuple[Runnable, ...],
    results: list[Result],
) -> str:
    document = {
        "schema": 1,
        "device": device,
        "peak_bandwidth": peak,
        "not_run": why or None,
        "cases": [str(case) for case in todo],
        "results": [_finite(asdict(result)) for result in results],
    }
    return json.dumps(document, allow_nan=False)


def _finite(result: dict[str, object]) -> dict[str, object]:
    """JSON has no NaN: an error that is none becomes null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in result.items()
    }


def _say(text: str, json_wanted: bool) -> None:
    print(text, file=sys.stderr if json_wanted else sys.stdout, flush=True)
