# SPDX-License-Identifier: Apache-2.0
"""What this machine has and lacks for the recipe's verbs."""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path

from packaging.version import Version

from recipe.bases.releases import load_bases
from recipe.bases.sources import sdist_ref
from recipe.cli.finding import Finding
from recipe.compile.toolchain import host_compiler, jobs, symbols, toolkit
from recipe.compile.toolchain.target import target_of, this_machine
from recipe.ground import run
from recipe.ground.errors import MachineError, RecipeError
from recipe.ground.project import Project
from recipe.objects.git import Store

CACHE_BYTES = 8 << 30
COMPILES = "build (for what is compiled)"


def examine(project: Project, machine: str) -> list[Finding]:
    """machine: what wheels are built for, as `uname -m` says it there."""
    found = [python(), git(), venv(), tar(), cache(project), compiler(project), readelf()]
    found += [ccache(), cuda(project), memory()]
    return found if machine == this_machine() else [*found, cross_compiler(machine)]


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


def cross_compiler(machine: str) -> Finding:
    name, needed_by = f"compiler for {machine}", f"build --platform {machine}, unless --native none"
    try:
        target = target_of(machine)
        detail = target.tool("g++") if target else "this machine's own"
    except RecipeError as error:
        return Finding(
            name=name, good=False, detail=error.what, needed_by=needed_by, next=error.next
        )
    return Finding(name=name, good=True, detail=detail, needed_by=needed_by)


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


def compiler(project: Project) -> Finding:
    """The C++ compiler; it is a fault if the newest release that is known wants a newer GCC."""
    try:
        said, found = host_compiler.identity(), host_compiler.gcc_version(host_compiler.chosen())
    except RecipeError as error:
        return Finding(
            name="compiler",
            good=False,
            detail=error.what,
            needed_by=COMPILES,
            next=error.next,
        )
    wanted = wanted_compilers(project)
    refusing = {tag: gcc for tag, gcc in wanted.items() if found is not None and found < gcc}
    tags = list(refusing)
    old = f"; too old for {' '.join(tags)} (GCC {max(refusing.values())})" if tags else ""
    # Which GCC a release wants stands in its sources.
    unread = "" if wanted else "; whether that is new enough is known once a source was fetched"
    return Finding(
        name="compiler",
        good=not tags or tags[-1] != list(wanted)[-1],
        detail=said + old + unread,
        needed_by=COMPILES,
        next="install a newer g++ and name it, CXX=g++-N python build.py ..., or build "
        f"{' '.join(tags)} with --native none",
    )


def wanted_compilers(project: Project) -> dict[str, Version]:
    """The oldest GCC of each release whose source is in the store, oldest release first."""
    if not (project.store / "HEAD").exists():
        return {}
    store = Store(path=project.store)
    releases = load_bases(project.bases_file).releases
    found = {}
    for base in releases:
        with suppress(RecipeError):  # a damaged store is said by whoever looks at it
            ref = sdist_ref(base.archive) if base.archive else f"refs/sm12x/revision/{base.commit}"
            commit = store.commit_of(ref)
            if commit is not None:
                text = store.read(commit, "CMakeLists.txt").decode()
                found[base.tag] = host_compiler.wanted_gcc(text)
    return found


def readelf() -> Finding:
    try:
        return Finding(name="readelf", good=True, detail=symbols.readelf(), needed_by=COMPILES)
    except MachineError as error:
        return Finding(
            name="readelf", good=False, detail=error.what, needed_by=COMPILES, next=error.next
        )


def ccache() -> Finding:
    """Not having it is no fault: a compile only takes longer the next time."""
    found = shutil.which("ccache")
    detail = found or "not on the PATH: objects are not remembered (apt-get install ccache)"
    return Finding(name="ccache", good=True, detail=detail, needed_by=COMPILES)


def cuda(project: Project) -> Finding:
    """The newest base's toolkit, or that it comes as packages; a wrong CUDA_HOME is a fault."""
    wanted = load_bases(project.bases_file).releases[-1].cuda
    try:
        found, refused = toolkit.machine_toolkit(wanted, toolkit.candidates())
    except MachineError as error:
        return Finding(
            name="cuda", good=False, detail=error.what, needed_by=COMPILES, next=error.next
        )
    packages = f"NVIDIA's packages of CUDA {wanted} are fetched when something is compiled"
    why = found.why if found else "; ".join([packages, *refused])
    return Finding(name="cuda", good=True, detail=why, needed_by=COMPILES)


def memory() -> Finding:
    free = jobs.free_memory()
    _, why = jobs.choose_jobs(None, jobs.processors(), free, jobs.UNKNOWN_PEAK_BYTES)
    return Finding(
        name="memory",
        good=free >= jobs.UNKNOWN_PEAK_BYTES,
        detail=f"{free / 2**30:.1f} GiB free; compilers at once: {why}",
        needed_by=COMPILES,
        next="free some memory, or build with --native none",
    )


def writable(place: Path) -> bool:
    import os

    return os.access(place, os.W_OK)
