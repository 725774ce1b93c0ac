# SPDX-License-Identifier: Apache-2.0
"""How often the soak sees a fault that is there, and one that isn't: a table over many runs.

PYTHONPATH=overlay/vllm:tests/overlay python benchmarks/soak_proof.py [--runs 100] [ROW ...]

Each run is `soak URL` of 200 requests on a server of its own, with other conversations and other
dice each time. The model reads codes as a large one does (tests/overlay/soak_models.py); rows of
`llama` have a Llama of random weights and need torch and transformers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections import Counter
from dataclasses import replace

from soak_models import Model, Reader, Tiny
from soak_server import Fault, Settings, serving
from vllm.sm12x.soak import cli

REQUESTS = 200
RIGHT = {
    "right, repeats itself": Settings(),
    "right, repeats itself, no log probabilities": Settings(logprobs=False),
    "right, samples at 0.7": Settings(temperature=0.7),
    "right, samples at 0.7, no log probabilities": Settings(temperature=0.7, logprobs=False),
    "right, samples at 1.2, no log probabilities": Settings(temperature=1.2, logprobs=False),
    "right, near choices tip in company": Settings(noise=0.3),
    "right, near choices tip, no log probabilities": Settings(noise=0.3, logprobs=False),
}
FAULTS = {
    "crossed answers, 5 in 100": Settings(fault=Fault.CROSSED, share=0.05),
    "crossed answers, 30 in 100": Settings(fault=Fault.CROSSED, share=0.3),
    "stale prefix": Settings(),
    "garbled after 30": Settings(fault=Fault.GARBLED, after=30),
    "garbled after 100": Settings(fault=Fault.GARBLED, after=100),
    "garbled after 100, 10 in 100": Settings(fault=Fault.GARBLED, after=100, share=0.1),
    "a stall, 10 in 100 after 120": Settings(fault=Fault.STALL, after=120, share=0.1),
    "ends midway, 5 in 100 after 120": Settings(fault=Fault.CUT, after=120, share=0.05),
}


def rows() -> dict[str, tuple[Settings, bool]]:
    """Return each row's server, and whether its prefix cache is stale."""
    found = {name: (settings, False) for name, settings in RIGHT.items()}
    for name, settings in FAULTS.items():
        stale = name.startswith("stale")
        sampled = replace(settings, temperature=0.7, logprobs=False)
        found[f"{name}; repeats itself"] = (settings, stale)
        found[f"{name}; samples, no log probabilities"] = (sampled, stale)
    for name in ("right, repeats itself", "garbled after 100", "stale prefix"):
        settings = RIGHT.get(name) or FAULTS[name]
        found[f"llama: {name}"] = (settings, name.startswith("stale"))
    return found


def run(name: str, settings: Settings, stale: bool, seed: int) -> tuple[int, list[str], int]:
    """Run the soak once and return its exit code, signs and alarms, and its requests."""
    llama = name.startswith("llama")
    model: Model = Tiny(context=1280, stale=stale) if llama else Reader(stale=stale)
    length = ("8", "16") if llama else ("24", "64")
    # A busy machine is no stall.
    stall = "1.5" if settings.fault is Fault.STALL else "60"
    arguments = [
        "--json", "--quiet", "--stall", stall, "--requests", str(REQUESTS), "--seed", str(seed),
        "--answer-tokens", length[0], "--count-tokens", length[1],
    ]  # fmt: skip
    out = io.StringIO()
    with serving(model, replace(settings, seed=seed)) as server, contextlib.redirect_stdout(out):
        code = cli.main([server.url, *arguments])
    found = json.loads(out.getvalue())
    signs = sorted({finding["sign"] for finding in found["findings"]})
    rates = sorted({rate["name"] for rate in found["rates"] if rate["alarm"]})
    return code, signs + rates, found["requests"]


def main() -> int:
    """Print the table; 1 if a right server was accused or a fault went unseen."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=plain)
    parser.add_argument("--runs", type=int, default=100, help="runs of each row (100)")
    parser.add_argument("row", nargs="*", help="beginnings of the rows to run (all)")
    options = parser.parse_args()
    failed = False
    print("| server | runs | exit 7 | most requests | seen as |\n|---|---|---|---|---|")
    for name, (settings, stale) in rows().items():
        if options.row and not name.startswith(tuple(options.row)):
            continue
        codes: Counter[int] = Counter()
        seen: Counter[str] = Counter()
        most = 0
        for seed in range(1, options.runs + 1):
            code, signs, requests = run(name, settings, stale, seed)
            codes[code] += 1
            seen.update(signs)
            most = max(most, requests)
        right = "right" in name.split(";")[0]
        failed |= codes[0 if right else 7] != options.runs
        how = ", ".join(f"{sign} {number}" for sign, number in seen.most_common(4)) or "–"
        print(f"| {name} | {options.runs} | {codes[7]} | {most} | {how} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
