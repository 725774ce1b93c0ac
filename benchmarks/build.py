# SPDX-License-Identifier: Apache-2.0
"""A first build on an empty cache next to a second one, both from an emptied dist/.

python benchmarks/build.py [--base v0.33.0] [--test-torch 2.13.0]; takes minutes and fetches what a
new machine would. It ends with 1 if the two wheels differ in a byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def build(
    options: argparse.Namespace, cache: Path, out: Path
) -> tuple[float, str, dict[str, float]]:
    """Seconds, the wheel's sha256 and the seconds of each stage."""
    command = [sys.executable, "build.py", "build", "--json", "--base", options.base]
    command += ["--arch", "12.1", "--out", str(out)]
    if options.test_torch:
        command += ["--test-torch", options.test_torch]
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "SM12X_CACHE": str(cache)}, stdout=subprocess.PIPE
    )
    seconds = time.perf_counter() - start
    report = json.loads(done.stdout)
    if done.returncode != 0:
        sys.exit(f"the build ended with {done.returncode}")
    wheel = out / report["wheel"]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wheel.unlink()
    return seconds, digest, {stage["name"]: stage["seconds"] for stage in report["stages"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--base", default="v0.33.0")
    parser.add_argument("--test-torch", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sm12x-benchmark-") as name:
        runs = [build(options, Path(name) / "cache", Path(name) / "dist") for _ in range(2)]
    (first, one, early), (second, two, late) = runs
    print(f"{'stage':10}{'first':>10}{'second':>10}")
    for stage in early:
        print(f"{stage:10}{early[stage]:9.1f}s{late[stage]:9.1f}s")
    print(f"{'all':10}{first:9.1f}s{second:9.1f}s   ratio {second / first:.2f}")
    print("the wheels are byte-identical" if one == two else "the wheels DIFFER")
    result = {"base": options.base, "first_s": first, "second_s": second, "same": one == two}
    print(json.dumps(result))
    return 0 if one == two else 1


if __name__ == "__main__":
    sys.exit(main())
