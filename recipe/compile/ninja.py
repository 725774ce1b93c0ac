# SPDX-License-Identifier: Apache-2.0
"""Compile the components of a configured tree with ninja, and take what CMake would install."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.compile.configure import Place, temporaries, variables
from recipe.compile.toolchain import jobs
from recipe.compile.toolchain.compiler_cache import CompilerCache, Hits, hits
from recipe.compile.toolchain.environment import NativeEnv
from recipe.compile.toolchain.symbols import readelf
from recipe.ground import run
from recipe.ground.errors import CompileError, MachineError


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """installed: the files of each component by their path in the wheel, as they lie on disk.

    hits is None where no compiler cache was in use; jobs says how many ran at once and why.
    """

    installed: Mapping[str, Mapping[str, Path]]
    jobs: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    hits: Hits | None


def compile_components(
    env: NativeEnv,
    place: Place,
    arch_list: str,
    components: tuple[str, ...],
    *,
    asked_jobs: int | None,
    cache: CompilerCache | None,
    peaks: Path,
    into: Path,
) -> Compiled:
    """Build the targets, then install each into its own folder below `into`."""
    readelf()  # what comes out is checked with it, and a compile takes hours
    peak = jobs.peak_of(peaks, components)
    count, why = jobs.choose_jobs(asked_jobs, jobs.processors(), jobs.free_memory(), peak)
    environment = variables(env, place, arch_list) | temporaries(place)
    environment |= cache.variables if cache else {}
    command = [env.tool("ninja"), "-C", str(place.build), f"-j{count}", *components]
    killed = jobs.killed_for_memory()
    took = run.measured(command, cwd=place.build, env=environment)
    if took.status != 0:
        what = f"{', '.join(components)} doesn't compile"
        raise failed(place.build, what, count, killed, no_room=took.no_room)
    # A run from the cache says nothing of nvcc, nor does one whose compilers a server starts.
    if took.peak_bytes and took.cpu_seconds > 60 and not (cache and cache.serves):
        jobs.remember_peak(peaks, components, took.peak_bytes)
    return Compiled(
        installed={name: install(env, place, name, into / name) for name in components},
        jobs=why,
        seconds=took.seconds,
        cpu_seconds=took.cpu_seconds,
        peak_bytes=took.peak_bytes,
        hits=hits(cache) if cache else None,
    )


def install(env: NativeEnv, place: Place, name: str, folder: Path) -> dict[str, Path]:
    """CMake's own installation of one component: what of it goes into a wheel, and where."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [env.tool("cmake"), "--install", str(place.build)]
    try:
        run.output([*command, "--prefix", str(folder), "--component", name])
    except run.CommandFailed as error:
        raise CompileError(
            f"CMake can't install {name}: {error.stderr.strip()[-500:]}",
            next="look at the component's install() lines in CMakeLists.txt",
        ) from None
    files = {
        in_wheel(path.relative_to(folder).as_posix(), env): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if not any(path.endswith(".so") for path in files):
        raise CompileError(
            f"{name} was built, but CMake installs no shared object for it",
            next="look at the component's install() lines in CMakeLists.txt",
        )
    return files


def in_wheel(path: str, env: NativeEnv) -> str:
    """A member's name. Where CMake crosses it leaves Python's tag out of a module's name, and a
    module without one would be loaded by every Python."""
    stem, _, suffix = path.rpartition("/")[2].partition(".")
    if env.target is None or suffix != "so" or stem.startswith("lib"):
        return path
    return f"{path.removesuffix('so')}{env.target.soabi(env.python)}.so"


def failed(
    folder: Path, what: str, count: int, killed_before: int, *, no_room: bool
) -> CompileError | MachineError:
    """Why a compile in `folder` stopped: no memory, no disk, or the sources (`what`).

    no_room: whether a compiler said that a disk is full.
    """
    kept = "What was compiled is kept; the next run goes on from there."
    if jobs.killed_for_memory() > killed_before:
        return MachineError(
            f"the kernel killed a compiler for lack of memory ({count} ran at once)",
            means=kept,
            next=f"the same command with --jobs {max(1, count // 2)}",
        )
    if no_room or run.is_full(folder):
        return run.disk_full(folder, "a compile stopped")
    return CompileError(
        what,
        means=f"The lines above say which source and why. {kept}",
        next="mend the source's patch, or take upstream's binaries: --native none",
    )
