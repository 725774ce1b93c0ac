# SPDX-License-Identifier: Apache-2.0
"""The machine's C++ compiler: what it is, and whether it is new enough for a release."""

from __future__ import annotations

import re
import shutil

from packaging.version import Version

from recipe import run
from recipe.errors import MachineError

# What upstream's CMake says of GCC, and the oldest that compiles C++17 where it says nothing.
GCC_WANTED = re.compile(r'CMAKE_CXX_COMPILER_VERSION VERSION_LESS "([\d.]+)"')
OLDEST_GCC = Version("10")


def compiler_version(name: str = "c++") -> str:
    """The first line of what the C++ compiler says of itself; MachineError if there is none."""
    said = run.output([find_compiler(name), "--version"])
    return said.decode(errors="replace").splitlines()[0]


def find_compiler(name: str = "c++") -> str:
    found = shutil.which(name)
    if found is None:
        raise MachineError(
            "there is no C++ compiler on this machine",
            means="nvcc compiles the host's half of each source with it.",
            next="apt-get install g++   # or: --native none",
        )
    return found


def gcc_version(name: str = "c++") -> Version | None:
    """None where it isn't GCC, of which alone upstream's CMake wants a version."""
    if "clang" in compiler_version(name).lower():
        return None
    said = run.output([find_compiler(name), "-dumpfullversion"])
    return Version(said.decode().strip() or "0")


def wanted_gcc(cmake: str) -> Version:
    """The oldest GCC that a release's CMakeLists.txt takes."""
    return max([OLDEST_GCC, *map(Version, GCC_WANTED.findall(cmake))])


def check_gcc(cmake: str, tag: str, name: str = "c++") -> None:
    """MachineError if GCC is older than the release's CMakeLists.txt wants, before it is asked."""
    number, wanted = gcc_version(name), wanted_gcc(cmake)
    if number is not None and number < wanted:
        raise MachineError(
            f"{find_compiler(name)} is GCC {number}; {tag} wants {wanted} or newer",
            means="Upstream's CMake stops with an older one.",
            next="install a newer g++ and make it c++, or take upstream's binaries: --native none",
        )
