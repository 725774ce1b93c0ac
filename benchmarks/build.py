# SPDX-License-Identifier: Apache-2.0
"""A first build on an empty cache, a second one, and a third with one file of the overlay changed.

python benchmarks/build.py [--base v0.33.0] [--test-torch 2.13.0] [--cache DIR] [--change FILE]; all
three are from an emptied dist/, in a copy of this checkout. It takes minutes and fetches what a new
machine would; with --cache only the second and third, on a cache that has been used. It ends with 1
if the first two wheels differ in a byte, or the third doesn't.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHANGED = "vllm/vllm/sm12x/doctor/report.py"
GOAL_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Run:
    """Seconds of the clock and of all processors, the wheel's sha256, and the seconds by stage."""

    seconds: float
    cpu_seconds: float
    digest: str
    stages: dict[str, float]


def build(options: argparse.Namespace, project: Path, cache: Path, out: Path) -> Run:
    command = [sys.executable, "build.py", "build", "--json", "--base", options.base]
    command += ["--arch", "12.1", "--native", "none", "--out", str(out)]
    if options.test_torch:
        command += ["--test-torch", options.test_torch]
    env = {**os.environ, "SM12X_CACHE": str(cache)}
    before, start = spent(), time.perf_counter()
    done = subprocess.run(command, cwd=project, env=env, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"the build ended with {done.returncode}")
    report = json.loads(done.stdout)
    wheel = out / report["wheel"]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wheel.unlink()
    stages = {stage["name"]: stage["seconds"] for stage in report["stages"]}
    return Run(seconds=seconds, cpu_seconds=spent() - before, digest=digest, stages=stages)


def spent() -> float:
    """Processor seconds of all that this process has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def copy_project(target: Path) -> Path:
    """This checkout to be changed, with the environments that build.py has made here."""
    ignore = shutil.ignore_patterns(".git", ".venv", "dist", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, target, ignore=ignore)
    if (ROOT / ".venv").exists():
        (target / ".venv").symlink_to((ROOT / ".venv").resolve())
    return target


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Run]:
    project = copy_project(folder / "project")
    cache, out = options.cache or folder / "cache", folder / "dist"
    names = ["second"] if options.cache else ["first", "second"]
    runs = {name: build(options, project, cache, out) for name in names}
    with (project / "overlay" / options.change).open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    runs["changed"] = build(options, project, cache, out)
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--base", default="v0.33.0")
    parser.add_argument("--test-torch", default=None)
    parser.add_argument("--cache", type=Path, help="a cache that has been used")
    parser.add_argument("--change", default=CHANGED, help="the file to change, below overlay/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sm12x-benchmark-") as name:
        runs = measure(options, Path(name))
    print(f"{'stage':10}" + "".join(f"{name:>10}" for name in runs))
    for stage in runs["changed"].stages:
        print(f"{stage:10}" + "".join(f"{run.stages[stage]:9.1f}s" for run in runs.values()))
    print(f"{'all':10}" + "".join(f"{run.seconds:9.1f}s" for run in runs.values()))
    print(f"{'processors':10}" + "".join(f"{run.cpu_seconds:9.1f}s" for run in runs.values()))
    same = "first" not in runs or runs["first"].digest == runs["second"].digest
    other = runs["changed"].digest != runs["second"].digest
    if "first" in runs:
        print("the first two wheels are byte-identical" if same else "the first two wheels DIFFER")
    if not other:
        print(f"the change of {options.change} is NOT in the wheel")
    print(f"goal for the changed one on 2 quiet cores: {GOAL_SECONDS} s, tests included")
    result: dict[str, object] = {"base": options.base, "same": same, "load": os.getloadavg()[0]}
    result |= {f"{name}_s": run.seconds for name, run in runs.items()}
    print(json.dumps(result | {f"{name}_cpu_s": run.cpu_seconds for name, run in runs.items()}))
    return 0 if same and other else 1


if __name__ == "__main__":
    sys.exit(main())
