# SPDX-License-Identifier: Apache-2.0
"""What one attention call of a DeepSeek V4 layer costs the host before its kernels are launched.

python -m benchmarks.host_time [--json] [--profile]. No GPU is needed: tensors are on the CPU, and
what would launch a kernel does nothing, so Triton's own launcher, the same for everybody, isn't in
the figure. The shape is V4-Flash's C4A layer at 32 heads: two caches, lengths, a sink, `out`. The
median of many rounds is printed; on a busy machine look at the least.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.kernel_report import find_overlay

ROUNDS, CALLS = 40, 50


class Nothing:
    """Stands for a kernel: launched, it does nothing."""

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda **_: None


def prepare(rows: int) -> Callable[[], object]:
    """One call, with everything that vLLM has at hand."""
    import torch
    from vllm.sm12x import layouts
    from vllm.sm12x.kernels import decode
    from vllm.sm12x.ops import flash_mla

    patched: Any = decode
    patched.decode_kernel = patched.merge_kernel = Nothing()
    patched = flash_mla
    patched.check_runnable = lambda *_: None
    lengths = torch.full((rows,), 128, dtype=torch.int32)
    arguments: dict[str, Any] = {
        "q": torch.zeros(rows, 1, 32, 512, dtype=torch.bfloat16),
        "k_cache": layouts.empty_cache(layouts.V4, 8, 64).unsqueeze(2),
        "block_table": None,
        "cache_seqlens": None,
        "head_dim_v": 512,
        "tile_scheduler_metadata": flash_mla.get_mla_metadata()[0],
        "softmax_scale": 0.04,
        "is_fp8_kvcache": True,
        "indices": torch.zeros(rows, 1, 128, dtype=torch.int32),
        "attn_sink": torch.zeros(32),
        "extra_k_cache": layouts.empty_cache(layouts.V4, 8, 64).unsqueeze(2),
        "extra_indices_in_kvcache": torch.zeros(rows, 1, 512, dtype=torch.int32),
        "topk_length": lengths,
        "extra_topk_length": lengths,
        "out": torch.zeros(rows, 1, 32, 512, dtype=torch.bfloat16),
    }
    return lambda: flash_mla.flash_mla_with_kvcache(**arguments)


def measure(call: Callable[[], object]) -> list[float]:
    """Microseconds a call, of each round."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append(1e6 * (time.perf_counter() - start) / CALLS)
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    options = parser.parse_args()
    find_overlay()
    found = {}
    for rows in (1, 32):
        call = prepare(rows)
        if options.profile:
            with cProfile.Profile() as profile:
                measure(call)
            pstats.Stats(profile).sort_stats("tottime").print_stats(14)
        times = measure(call)
        found[rows] = {"median": statistics.median(times), "least": min(times)}
    if options.json:
        print(json.dumps(found))
    else:
        for rows, micros in found.items():
            print(f"{rows} rows: median {micros['median']:.0f} µs, least {micros['least']:.0f} µs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
