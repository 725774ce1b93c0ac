# SPDX-License-Identifier: Apache-2.0
"""Seconds from typing a command to its first line, next to a bare Python start.

python benchmarks/start.py; the environment and the sources must be there already.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = 15


def first_line_seconds(command: list[str]) -> float:
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - start
        process.kill()
    return seconds


def main() -> None:
    ours = [sys.executable, "build.py", "plan", "--base", "v0.33.0", "--offline"]
    bare = [sys.executable, "-c", "print()"]
    first_line_seconds(ours)
    pairs = [(first_line_seconds(ours), first_line_seconds(bare)) for _ in range(RUNS)]
    result = {
        "first_line_s": round(statistics.median(a for a, _ in pairs), 3),
        "bare_python_s": round(statistics.median(b for _, b in pairs), 3),
        "ratio": round(statistics.median(a / b for a, b in pairs), 1),
        "runs": RUNS,
    }
    print("command                      median seconds to the first line")
    print(f"build.py plan                {result['first_line_s']}")
    print(f"python -c 'print()'          {result['bare_python_s']}")
    print(f"ratio, pair by pair          {result['ratio']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
