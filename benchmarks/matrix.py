# SPDX-License-Identifier: Apache-2.0
"""The whole matrix, next to quilt and git am putting the same series on the same releases.

python benchmarks/matrix.py; needs the archives in the cache (python build.py matrix fetches them),
quilt and git. Unpacking, checking out and exporting for the peers isn't counted; for the matrix
three runs are: archives alone, trees imported, and everything stored.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"archives alone": 60.0, "trees imported": 60.0, "stored": 10.0}


def run(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> bytes:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr.decode()}")
    return done.stdout


def build(cache: Path, *words: str) -> dict[str, Any]:
    out = run(sys.executable, "build.py", *words, "--json", env={"SM12X_CACHE": str(cache)})
    read = json.loads(out)
    assert isinstance(read, dict)
    return read


def timed(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> float:
    start = time.perf_counter()
    run(*command, cwd=cwd, env=env)
    return time.perf_counter() - start


def matrix_seconds(cache: Path) -> dict[str, float]:
    """Seconds of `matrix` with the archives alone, with trees imported, and with all stored."""
    command = (sys.executable, "build.py", "matrix", "--offline")
    env = {"SM12X_CACHE": str(cache)}
    found = {}
    for name in GOALS:
        if name == "trees imported":
            shutil.rmtree(cache / "matrix")
        found[name] = timed(*command, env=env)
    return found


def peers(cache: Path, tag: str, work: Path) -> tuple[float, float]:
    """Seconds of quilt pushing and popping, and of git am, for one release's series."""
    build(cache, "apply", "--base", tag, "--tree", str(work / "tree"))
    build(cache, "export", "--base", tag, "--quilt", str(work / "quilt"))
    build(cache, "export", "--base", tag, "--git", str(work / "mails"))
    tree = work / "tree"
    run("git", "checkout", "--quiet", "-B", "peer", f"base-{tag}", cwd=tree)
    quilt = {"QUILT_PATCHES": str(work / "quilt")}
    seconds = timed("quilt", "--quiltrc=-", "push", "-a", "--fuzz=0", cwd=tree, env=quilt)
    seconds += timed("quilt", "--quiltrc=-", "pop", "-a", cwd=tree, env=quilt)
    run("git", "clean", "--quiet", "-ffdx", cwd=tree)
    run("git", "reset", "--quiet", "--hard", cwd=tree)
    mails = sorted(str(path) for path in (work / "mails").iterdir())
    who = ("-c", "user.name=peer", "-c", "user.email=peer@example.org", "-c", "gc.auto=0")
    return seconds, timed("git", *who, "am", "--quiet", "--keep-non-patch", *mails, cwd=tree)


def main() -> int:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    used = Path(os.environ.get("SM12X_CACHE") or str(Path(home) / "vllm-sm12x"))
    run(sys.executable, "build.py", "lint")
    with tempfile.TemporaryDirectory(prefix="sm12x-benchmark-", dir=used) as name:
        cache = Path(name) / "cache"
        for path in (used / "downloads").glob("*/*.tar.gz"):
            target = cache / "downloads" / path.parent.name / path.name
            target.parent.mkdir(parents=True)
            os.link(path, target)
        ours = matrix_seconds(cache)
        bases = [row["tag"] for row in build(cache, "bases")["bases"]]
        pairs = []
        for tag in bases:
            with tempfile.TemporaryDirectory(dir=name) as work:
                pairs.append(peers(cache, tag, Path(work)))
    quilt, am = (sum(column) for column in zip(*pairs, strict=True))
    print(f"{len(bases)} releases{'':24}seconds   of quilt's   of git am's")
    for label, seconds in ours.items():
        print(
            f"matrix, {label:24}{seconds:9.1f}{seconds / quilt:12.2f}{seconds / am:13.2f}"
            f"   goal {GOALS[label]:.0f} s"
        )
    print(f"{'quilt push -a, pop -a':32}{quilt:9.1f}")
    print(f"{'git am':32}{am:9.1f}")
    print(json.dumps({**ours, "quilt": quilt, "git_am": am, "releases": len(bases)}))
    return 0 if all(ours[name] < goal for name, goal in GOALS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
