# SPDX-License-Identifier: Apache-2.0
"""Run upstream's CMake on a tree and read what each component would be compiled from, and how.

CMake is called as upstream's setup.py calls it. It writes generated sources into the tree, so the
tree is one of our own. Nothing is fetched: every inner source is a folder that the caller names.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from recipe.compile.includes import Closure
from recipe.compile.toolchain.environment import NativeEnv
from recipe.ground import run
from recipe.ground.errors import CompileError
from recipe.ground.scratch import write_whole

# What of a caller's environment would be in our objects and not in our keys: flags, folders that
# compilers search, sources that upstream's CMake takes from a variable. GCC reads an empty
# LIBRARY_PATH as the current folder, so they are taken out.
COMPILERS = ("CC", "CXX", "CUDACXX", "CUDAHOSTCXX", "NVCC_CCBIN", "CUDA_PATH", "CUDA_BIN_PATH")
FLAGS = ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "CUDAFLAGS", "LDFLAGS", "CUDAARCHS")
NVCC_FLAGS = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
SEARCHED = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH")
UPSTREAMS = (
    "PYTHONPATH",
    "DEEPGEMM_PYTHON_INTERPRETERS",
    "TORCH_NIGHTLY",
    "VLLM_KERNEL_SYMBOL_MAP",
)
CALLERS = (*COMPILERS, *FLAGS, *NVCC_FLAGS, *SEARCHED, *UPSTREAMS)
CALLERS_OWN = re.compile(r"CMAKE_\w+|FETCHCONTENT_\w+|\w+_SRC_DIR")
MADE_BY = "made-by.json"
GENCODE = re.compile(r"code=(?:\[)?([a-z0-9_,]+)")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One compile: its source and its command, with the places of this machine left out."""

    source: str
    command: str

    @property
    def targets(self) -> tuple[str, ...]:
        """What nvcc makes code for: ``sm_120f``, ``compute_80``."""
        found = [name for names in GENCODE.findall(self.command) for name in names.split(",")]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True)
class Build:
    """A component as CMake configured it. files: sha256 of its sources and their headers, by path
    (below ``tree/`` or an inner source's name). link: the link command."""

    name: str
    steps: tuple[Step, ...]
    link: str
    files: Mapping[str, str]

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(target for step in self.steps for target in step.targets))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a configure happens. inner: the folder of each inner source, by the environment
    variable that upstream's CMake takes it from; defines: further entries of its cache. launcher:
    what starts each compiler."""

    tree: Path
    build: Path
    inner: Mapping[str, str]
    defines: Mapping[str, str] = field(default_factory=dict)
    launcher: str | None = None


def configure(env: NativeEnv, place: Place, arch_list: str) -> None:
    """Write `place.build`; CompileError with CMake's last lines if it stops."""
    clear_of_others(env, place.build)
    command = [env.tool("cmake"), "-S", str(place.tree), "-B", str(place.build), "-G", "Ninja"]
    command += [f"-D{name}={value}" for name, value in cache_entries(env, place).items()]
    environment = variables(env, place, arch_list) | temporaries(place)
    try:
        said = run.output_together(command, cwd=place.build, env=environment)
    except run.CommandFailed as error:
        raise stopped(error, place) from None
    (place.build / "configure.log").write_bytes(said)


def clear_of_others(env: NativeEnv, build: Path) -> None:
    """Make the build folder, anew if it is another compiler's: CMake keeps the one it found first,
    and ninja the objects that it made."""
    made = json.dumps([env.identity, dict(env.told)]).encode()
    marker = build / MADE_BY
    if marker.exists() and marker.read_bytes() != made:
        shutil.rmtree(build)
    build.mkdir(parents=True, exist_ok=True)
    write_whole(marker, made)


def cache_entries(env: NativeEnv, place: Place) -> dict[str, str]:
    entries = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "CMAKE_MAKE_PROGRAM": env.tool("ninja"),
        "CMAKE_CUDA_COMPILER": str(env.toolkit.nvcc),
        "VLLM_TARGET_DEVICE": "cuda",
        "VLLM_PYTHON_EXECUTABLE": env.tool("python"),
        "VLLM_PYTHON_PATH": ":".join(map(str, env.sites)),
        "NVCC_THREADS": "1",
        "FETCHCONTENT_BASE_DIR": str(place.build / "deps"),
        # What isn't named as a folder must not come from the network.
        "FETCHCONTENT_FULLY_DISCONNECTED": "ON",
        **env.cmake_entries,
        **place.defines,
    }
    if place.launcher:
        for language in ("C", "CXX", "CUDA"):
            entries[f"CMAKE_{language}_COMPILER_LAUNCHER"] = place.launcher
    return entries


def variables(env: NativeEnv, place: Place, arch_list: str) -> dict[str, str | None]:
    """The environment of CMake and of the compilers; None takes a variable out."""
    path = [str(env.folder / "bin"), str(env.toolkit.root / "bin"), os.environ.get("PATH", "")]
    own = [name for name in os.environ if CALLERS_OWN.fullmatch(name)]
    return {
        **dict.fromkeys((*CALLERS, *own)),
        "PATH": os.pathsep.join(path),
        "CUDA_HOME": str(env.toolkit.root),
        # Where torch's FindCUDA looks for the libraries of another machine.
        "CUDA_TOOLKIT_ROOT": str(env.toolkit.root),
        "TORCH_CUDA_ARCH_LIST": arch_list,
        # The system's words for a full disk are looked for in what they say.
        "LC_ALL": "C.UTF-8",
        **env.told,
        **place.inner,
    }


def temporaries(place: Place) -> dict[str, str]:
    """An empty folder beside the objects for what compilers write besides them: the room for it is
    the work folder's, and what killed ones left goes with the next start."""
    folder = place.build / "tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return {"TMPDIR": str(folder)}


def read_builds(env: NativeEnv, place: Place, known: Iterable[str] = ()) -> dict[str, Build]:
    """Every component of a configured tree, by name.

    known: names of components that may be there without a compile of CMake's own: DeepGEMM is built
    by a script from v0.21 on. All that such a one shows are its commands.
    """
    roots = {str(place.build): "build", str(place.tree): "tree"}
    folders = [*place.inner.values(), *place.defines.values()]
    roots.update({folder: f"inner/{Path(folder).name}" for folder in folders})
    shorten = Shorten(roots, place, env)
    steps: dict[str, list[Step]] = {}
    sources: dict[str, list[tuple[Path, str]]] = {}
    for entry in compile_commands(place.build / "compile_commands.json"):
        name = component_of(entry["output"])
        source = Path(entry["file"])
        steps.setdefault(name, []).append(
            Step(source=shorten(str(source)), command=shorten(entry["command"]))
        )
        sources.setdefault(name, []).append((source, entry["command"]))
    closure = Closure([Path(root) for root in roots])
    scripted = {
        name: Build(name=name, steps=(), link=shorten(said), files={})
        for name in known
        if name not in steps and (said := commands(env, place, name))
    }
    return scripted | {
        name: Build(
            name=name,
            steps=tuple(sorted(found, key=lambda step: step.source)),
            link=shorten(commands(env, place, name).rpartition("\n")[2]),
            files={
                shorten(str(path)): digest
                for source, command in sources[name]
                for path, digest in closure.of(source, include_dirs(command)).items()
            },
        )
        for name, found in sorted(steps.items())
    }


def compile_commands(path: Path) -> list[dict[str, str]]:
    """CMake's list of compiles, each with its file, command and output; CompileError if it is
    damaged."""
    try:
        found: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
        for entry in found:
            if not all(isinstance(entry[key], str) for key in ("file", "command", "output")):
                raise TypeError("an entry of it is no text")
            component_of(entry["output"])
        return found
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CompileError(
            f"{path} can't be read: {type(error).__name__}: {error}",
            means="It says what is compiled and how; nothing was compiled.",
            next=f"rm -r {path.parent}   # then run it again: CMake configures anew",
        ) from None


def component_of(output: str) -> str:
    """The CMake target of an object file such as ``CMakeFiles/_C.dir/csrc/x.cu.o``."""
    match = re.search(r"CMakeFiles/([^/]+)\.dir/", output)
    if match is None:
        raise ValueError(f"{output[:200]!r} is no target's object")
    return match[1]


def commands(env: NativeEnv, place: Place, name: str) -> str:
    """All that ninja would run for a component, the link last; empty if there is no such one."""
    try:
        said = run.output([env.tool("ninja"), "-C", str(place.build), "-t", "commands", name])
    except run.CommandFailed:
        return ""
    return said.decode().strip()


def include_dirs(command: str) -> tuple[Path, ...]:
    """The folders after -I and -isystem, in order."""
    words = shlex.split(command)
    found = []
    for index, word in enumerate(words):
        if word in ("-I", "-isystem") and index + 1 < len(words):
            found.append(words[index + 1])
        elif word.startswith("-I") and len(word) > 2:
            found.append(word[2:])
        elif word.startswith(("-isystem=", "--include-path=")):
            found.append(word.partition("=")[2])
    return tuple(Path(path.strip('"')) for path in dict.fromkeys(found))


class Shorten:
    """Replaces this machine's folders in a text by names, and drops the launcher."""

    def __init__(self, roots: Mapping[str, str], place: Place, env: NativeEnv) -> None:
        known = {
            **roots,
            str(env.toolkit.root): "cuda",
            **{str(site): "packages" for site in env.sites},
            str(env.folder): "tools",
            str(env.interpreter_home): "python",
            **{path: Path(path).name for path in env.told.values()},
        }
        self.drop = f"{place.launcher} " if place.launcher else ""
        # The longest first: a build folder may lie inside of another.
        self.known = sorted(known.items(), key=lambda item: -len(item[0]))

    def __call__(self, text: str) -> str:
        if self.drop:
            text = text.replace(self.drop, "")
        for folder, name in self.known:
            text = text.replace(folder, name)
        return text


def stopped(error: run.CommandFailed, place: Place) -> CompileError:
    (place.build / "configure.log").write_bytes(error.stdout + error.stderr.encode())
    lines = [line for line in error.stderr.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith("CMake Error")), 0)
    return CompileError(
        f"CMake stops on {place.tree}: " + " ".join(" ".join(lines[first : first + 4]).split()),
        means=f"Nothing was compiled; all it said is in {place.build / 'configure.log'}.",
        next="mend the tree or the sources named there, or take upstream's binaries: --native none",
    )
