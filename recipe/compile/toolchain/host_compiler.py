# SPDX-License-Identifier: Apache-2.0
"""The machine's C++ compiler: which it is, what it is, and whether it is new enough for a release.

It is what CXX names, else c++. CMake and nvcc are told of the same one: by themselves CMake takes
c++ and nvcc g++, which need not be the same.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

from packaging.version import Version

from recipe.ground import run
from recipe.ground.errors import MachineError, UsageError

# What upstream's CMake says of GCC, and the oldest that compiles C++17 where it says nothing.
GCC_WANTED = re.compile(r'CMAKE_CXX_COMPILER_VERSION VERSION_LESS "([\d.]+)"')
OLDEST_GCC = Version("10")
# In front of a compiler in CXX: the recipe puts its own there.
LAUNCHERS = ("ccache", "sccache")


def chosen() -> str:
    """The path of the C++ compiler; MachineError if there is none."""
    return named("CXX") or find_compiler("c++")


def named(variable: str) -> str | None:
    """The path of the compiler that CXX or CC names; UsageError if it names more than that."""
    words = shlex.split(os.environ.get(variable, ""))
    if words and Path(words[0]).name in LAUNCHERS:
        words = words[1:]
    if not words:
        return None
    if len(words) > 1:
        raise UsageError(
            f"{variable}={os.environ[variable]!r} has more than a compiler's name",
            means="Its arguments would change what is compiled and stand in no record.",
            next=f"{variable}={words[0]} python build.py ...",
        )
    return find_compiler(words[0])


def told() -> dict[str, str]:
    """The variables by which CMake, nvcc and torch's scripts learn of the compiler; empty where
    they find it by themselves."""
    cxx, cc = named("CXX"), named("CC")
    found = {"CC": cc} if cc else {}
    if cxx:
        return {**found, "CXX": cxx, "CUDAHOSTCXX": cxx}
    ours, nvccs = chosen(), shutil.which("g++")
    if nvccs and not Path(nvccs).samefile(ours):
        found["CUDAHOSTCXX"] = ours
    return found


def identity() -> str:
    """What the compilers say of themselves: C++'s, and C's where it is named."""
    cc = named("CC")
    return "; ".join(compiler_version(one) for one in (chosen(), *([cc] if cc else [])))


def compiler_version(path: str) -> str:
    """The first line of what a compiler says of itself."""
    try:
        said = run.output([path, "--version"]).decode(errors="replace")
        return said.splitlines()[0]
    except (run.CommandFailed, OSError, IndexError) as error:
        raise MachineError(
            f"{path} doesn't say its version: {str(error).strip()}",
            next="name a compiler that works: CXX=g++ python build.py ...",
        ) from None


def find_compiler(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MachineError(
            "there is no C++ compiler on this machine"
            if name == "c++"
            else f"there is no compiler {name} on this machine",
            means="nvcc compiles the host's half of each source with it.",
            next="apt-get install g++   # or: --native none",
        )
    return str(Path(found).absolute())


def gcc_version(path: str) -> Version | None:
    """None where it isn't GCC, of which alone upstream's CMake wants a version."""
    if "clang" in compiler_version(path).lower():
        return None
    said = run.output([path, "-dumpfullversion"])
    with run.understood(f"{path} -dumpfullversion"):
        return Version(said.decode().strip() or "0")


def wanted_gcc(cmake: str) -> Version:
    """The oldest GCC that a release's CMakeLists.txt takes."""
    return max([OLDEST_GCC, *map(Version, GCC_WANTED.findall(cmake))])


def check_gcc(cmake: str, tag: str, crossing: str | None = None) -> None:
    """MachineError if GCC is older than the release's CMakeLists.txt wants, before it is asked.

    crossing: the path of the compiler for another machine.
    """
    path = crossing or chosen()
    number, wanted = gcc_version(path), wanted_gcc(cmake)
    if number is not None and number < wanted:
        raise MachineError(
            f"{path} is GCC {number}; {tag} wants {wanted} or newer",
            means="Upstream's CMake stops with an older one.",
            next=f"install a newer g++ and name it, CXX=g++-{wanted.major} python build.py ..., "
            "or take upstream's binaries: --native none",
        )
