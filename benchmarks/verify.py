# SPDX-License-Identifier: Apache-2.0
"""Seconds that `verify` takes for a wheel, and what its processes had of the processors.

python benchmarks/verify.py WHEEL; the release's source, its published wheel and its platform tag
are to be in the cache, as after a build.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = 3


def main(wheel: Path) -> None:
    command = [sys.executable, "build.py", "verify", str(wheel), "--offline", "--json"]
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        seconds.append(round(time.perf_counter() - start, 1))
        if done.returncode != 0:
            sys.exit(done.stderr)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "wheel_mb": round(wheel.stat().st_size / 1e6, 1),
        "members": json.loads(done.stdout)["members"],
        "seconds": seconds,
        "processor_seconds": round((usage.ru_utime + usage.ru_stime) / RUNS, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
        "processors": len(os.sched_getaffinity(0)),
    }
    print(f"verify, {RUNS} runs one after the other")
    for name, value in result.items():
        print(f"{name:18} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
