# SPDX-License-Identifier: Apache-2.0
"""The whole of upstream's own build, by its setup.py, on a patched tree: ``--native all``.

setup.py configures with CMake, compiles every extension, has cargo make the Rust frontend and packs
a wheel. It may fetch at each of these steps; here it is given every source as a folder and, where
the machine allows it, no network.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from recipe.compile.configure import Place, temporaries, variables
from recipe.compile.ninja import failed
from recipe.compile.toolchain import jobs, rust
from recipe.compile.toolchain.compiler_cache import CompilerCache, Hits, hits
from recipe.compile.toolchain.environment import NativeEnv
from recipe.ground import run
from recipe.ground.errors import CompileError, MachineError, SourceError
from recipe.wheel.layout import DATE_SECONDS

# A CUDA build of every extension and its objects, unpacked.
ROOM_BYTES = 12 << 30
PEAK = ("all",)
ASKED_FOR = re.compile(r"ENV\{(\w+_SRC_DIR)\}")
OVERRIDE = "FETCHCONTENT_SOURCE_DIR_"
# Compiled for a processor's own instructions only: nothing of it is read in a CUDA build.
NOT_CUDA = "cpu_extension.cmake"
# A network of its own, without a route to any other.
ALONE = ("unshare", "--map-current-user", "--net")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be built, and where.

    place: the patched tree, which setup.py writes into; the build folder, where the next run goes
    on; and a folder for every inner source. version: the wheel's, ours. commit: upstream's, for
    ``vllm/_version.py``. crates: a folder written by ``cargo vendor``, or None.
    """

    place: Place
    arch_list: str
    version: str
    commit: str
    crates: Path | None = None

    @property
    def tree(self) -> Path:
        return self.place.tree

    @property
    def work(self) -> Path:
        return self.place.build


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A wheel as setup.py packed it, and what that took. network: what kept it from fetching."""

    wheel: Path
    jobs: str
    network: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    hits: Hits | None


def build_whole(
    env: NativeEnv,
    order: Order,
    *,
    asked_jobs: int | None,
    cache: CompilerCache | None,
    peaks: Path,
    offline: bool,
) -> Whole:
    """Run setup.py; SourceError (3), CompileError (5) or MachineError (8) if that can't be done.

    `peaks` is the folder that remembers what memory a compiler took.
    """
    check_inner(order)
    check_names(order, env, cache)
    order.work.mkdir(parents=True, exist_ok=True)
    run.check_disk(order.work, ROOM_BYTES, "a build of every extension")
    frontend = rust.prepare(order.tree, order.work, order.crates, offline=offline)
    peak = jobs.peak_of(peaks, PEAK)
    count, why = jobs.choose_jobs(asked_jobs, jobs.processors(), jobs.free_memory(), peak)
    environment = environ(env, order, count, cache) | temporaries(order.place) | frontend
    prefix, network = alone()
    wheels = order.work / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    killed = jobs.killed_for_memory()
    command = [*prefix, env.tool("python"), *setup(order.work, wheels)]
    took = run.measured(command, cwd=order.tree, env=environment)
    if took.status != 0:
        what = f"setup.py of {order.tree} stops"
        raise failed(order.work, what, count, killed, no_room=took.no_room)
    # Where a server compiles, its compilers are not among the processes that were measured.
    if took.cpu_seconds > 60 and not (cache and cache.serves):
        jobs.remember_peak(peaks, PEAK, took.peak_bytes)
    return Whole(
        wheel=only_wheel(wheels, order.version),
        jobs=why,
        network=network,
        seconds=took.seconds,
        cpu_seconds=took.cpu_seconds,
        peak_bytes=took.peak_bytes,
        hits=hits(cache) if cache else None,
    )


def setup(work: Path, wheels: Path) -> list[str]:
    """As upstream's Dockerfile calls it; its objects lie outside of the tree."""
    build = ["build", "--build-base", str(work)]
    return ["setup.py", *build, "bdist_wheel", "--dist-dir", str(wheels), "--py-limited-api=cp38"]


def environ(
    env: NativeEnv, order: Order, count: int, cache: CompilerCache | None
) -> dict[str, str | None]:
    """What setup.py, CMake, cargo and the compilers are told."""
    entries = cache_entries(env, order.place, cache)
    return variables(env, order.place, order.arch_list) | {
        "CMAKE_ARGS": " ".join(f"-D{name}={value}" for name, value in entries.items()),
        "CMAKE_BUILD_TYPE": "Release",
        "FETCHCONTENT_BASE_DIR": str(order.work / "deps"),
        "MAX_JOBS": str(count),
        "NVCC_THREADS": "1",
        "CARGO_BUILD_JOBS": str(count),
        "VLLM_TARGET_DEVICE": "cuda",
        "VLLM_VERSION_OVERRIDE": order.version,
        "SETUPTOOLS_SCM_PRETEND_METADATA": f'{{node = "g{order.commit}"}}',
        # Dates in the archive that bdist_wheel writes.
        "SOURCE_DATE_EPOCH": str(DATE_SECONDS),
        # Each of these lets setup.py take binaries from a wheel that it fetches.
        "VLLM_USE_PRECOMPILED": "0",
        "VLLM_USE_PRECOMPILED_RUST": "0",
        "VLLM_PRECOMPILED_WHEEL_LOCATION": "",
        "VLLM_PRECOMPILED_WHEEL_COMMIT": "",
        "VLLM_DOCKER_BUILD_CONTEXT": "0",
        "VLLM_DISABLE_SCCACHE": "1",  # the launcher is named in CMAKE_ARGS, if there is one
        **(cache.variables if cache else {}),
    }


def cache_entries(env: NativeEnv, place: Place, cache: CompilerCache | None) -> dict[str, str]:
    """setup.py puts these after its own, so that they win: CMake's disconnection, the launcher.

    The list of compiles tells afterwards what each extension should hold.
    """
    launcher = cache.tool if cache else ""
    return {
        "CMAKE_MAKE_PROGRAM": env.tool("ninja"),
        "FETCHCONTENT_FULLY_DISCONNECTED": "ON",
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        **{f"CMAKE_{name}_COMPILER_LAUNCHER": launcher for name in ("C", "CXX", "CUDA")},
        **place.defines,
    }


def wanted_sources(tree: Path) -> list[str]:
    """The environment variables that upstream's CMake takes inner sources from."""
    files = [tree / "CMakeLists.txt", *sorted((tree / "cmake").rglob("*.cmake"))]
    texts = [path.read_text(encoding="utf-8") for path in files if path.name != NOT_CUDA]
    return sorted({name for text in texts for name in ASKED_FOR.findall(text)})


def check_inner(order: Order) -> None:
    """Every inner source must be a folder with something in it, before anything is compiled."""
    named = {name: Path(folder) for name, folder in order.place.inner.items()}
    named |= defined(order.place)
    wanted = wanted_sources(order.tree)
    missing = [name for name in wanted if key_of(name) not in map(key_of, named)]
    empty = [f"{name}={folder}" for name, folder in named.items() if not holds_files(folder)]
    if missing or empty:
        raise SourceError(
            "a build of everything lacks inner sources: " + ", ".join([*missing, *empty]),
            means="CMake would fetch them or go on without. Nothing was compiled.",
            next="name folders for them: --sources DIR or --sources NAME=PATH",
        )


def defined(place: Place) -> dict[str, Path]:
    """The inner sources that CMake is told of by its own entries, by the name in them."""
    return {
        name.removeprefix(OVERRIDE): Path(value)
        for name, value in place.defines.items()
        if name.startswith(OVERRIDE)
    }


def key_of(name: str) -> str:
    """VLLM_FLASH_ATTN_SRC_DIR and VLLM-FLASH-ATTN are the same source."""
    return re.sub(r"[^A-Z0-9]", "", name.removesuffix("_SRC_DIR").upper())


def holds_files(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is not None


def check_names(order: Order, env: NativeEnv, cache: CompilerCache | None) -> None:
    """setup.py splits CMAKE_ARGS at blanks, so no path in it may have one."""
    places = [str(order.work), str(order.tree), env.tool("ninja"), cache.tool if cache else ""]
    blank = next((path for path in places if re.search(r"\s", path)), None)
    if blank is not None:
        raise MachineError(
            f"there is a blank in {blank!r}",
            means="Upstream's setup.py can't hand such a path to CMake.",
            next="use folders without one: SM12X_CACHE=DIR python build.py ...",
        )


def alone() -> tuple[list[str], str]:
    """What starts a command without a network; nothing where the machine doesn't allow that."""
    try:
        run.output([*ALONE, "true"])
    except (run.CommandFailed, OSError):
        return [], "CMake and cargo are told not to fetch (no network namespace on this machine)"
    return [*ALONE], "a network namespace of its own"


def only_wheel(folder: Path, version: str) -> Path:
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1 or f"-{version}-" not in found[0].name:
        names = ", ".join(path.name for path in found) or "none"
        raise CompileError(
            f"setup.py was to pack one wheel of version {version}; there is {names}",
            means="The tree's setup.py doesn't take its version as upstream's does.",
            next="look at get_vllm_version() in its setup.py",
        )
    return found[0]
