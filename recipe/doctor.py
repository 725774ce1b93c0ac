# SPDX-License-Identifier: Apache-2.0
"""What this machine has and lacks for the recipe's verbs."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from recipe import run
from recipe.config import Project

CACHE_BYTES = 8 << 30


@dataclass(frozen=True, kw_only=True)
class Finding:
    name: str
    good: bool
    detail: str
    needed_by: str
    next: str = ""


def examine(project: Project) -> list[Finding]:
    return [python(), git(), venv(), tar(), cache(project)]


def python() -> Finding:
    version = sys.version.split()[0]
    return Finding(
        name="python",
        good=sys.version_info >= (3, 11),
        detail=f"{version} (3.11 or newer is needed)",
        needed_by="every verb",
        next="install Python 3.11 or newer",
    )


def git() -> Finding:
    if shutil.which("git") is None:
        return Finding(
            name="git",
            good=False,
            detail="not on the PATH",
            needed_by="build, plan, apply",
            next="apt-get install git",
        )
    version = run.output(["git", "version"]).decode().split()[2]
    numbers = tuple(int(part) for part in version.split(".")[:2])
    return Finding(
        name="git",
        good=numbers >= (2, 38),
        detail=f"{version} (2.38 or newer is needed)",
        needed_by="build, plan, apply",
        next="install a newer git",
    )


def venv() -> Finding:
    try:
        run.output([sys.executable, "-c", "import venv, ensurepip"])
    except run.CommandFailed:
        return Finding(
            name="venv",
            good=False,
            detail="Python has no venv or ensurepip",
            needed_by="build (for its tests)",
            next="apt-get install python3-venv",
        )
    return Finding(name="venv", good=True, detail="there", needed_by="build (for its tests)")


def tar() -> Finding:
    found = shutil.which("tar")
    return Finding(
        name="tar",
        good=found is not None,
        detail=found or "not on the PATH",
        needed_by="build (for its tests)",
        next="apt-get install tar",
    )


def cache(project: Project) -> Finding:
    place = next(p for p in (project.cache, *project.cache.parents) if p.exists())
    free = shutil.disk_usage(place).free
    return Finding(
        name="cache",
        good=free >= CACHE_BYTES and writable(place),
        detail=f"{project.cache}: {free / 2**30:.1f} GiB free (a base takes up to "
        f"{CACHE_BYTES >> 30} GiB with its own torch)",
        needed_by="build",
        next="name a folder with room: SM12X_CACHE=DIR python build.py ...",
    )


def writable(place: Path) -> bool:
    import os

    return os.access(place, os.W_OK)
