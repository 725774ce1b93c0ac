# SPDX-License-Identifier: Apache-2.0
"""Machines that this one can compile for besides itself, and what is typed to get there.

The host's half of a source is compiled by a cross compiler that nvcc is given, against the headers
and libraries of the other machine. nvcc asks that compiler how plain char is, so device code comes
out as on that machine, too.
"""

from __future__ import annotations

import platform as machine_info
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from recipe.ground import run
from recipe.ground.errors import MachineError, UsageError


@dataclass(frozen=True, kw_only=True)
class Target:
    """machine: as `uname -m` there. triple: GNU's name of it; package: the compiler's in Debian.

    wheels: the platform tags that a package for it may have.
    """

    machine: str
    triple: str
    package: str
    wheels: tuple[str, ...]

    def tool(self, name: str) -> str:
        """The path of a program of the cross compiler; MachineError where it isn't installed."""
        found = shutil.which(f"{self.triple}-{name}")
        if found is None:
            raise MachineError(
                f"there is no C++ compiler for {self.machine} on this machine",
                means=f"nvcc compiles the host's half of each source with {self.triple}-{name}.",
                next=f"apt-get install {self.package}   # or: --native none",
            )
        return found

    def soabi(self, python: str) -> str:
        """What an extension for that Python alone (3.11) has before ``.so`` in its name."""
        return f"cpython-{python.replace('.', '')}-{self.triple}"


# By what compiles and what is compiled for; NVIDIA's nvcc of x86_64 is the one that crosses.
# The tags go from the oldest glibc with aarch64 packages to the newest a base is published for.
TARGETS = {
    ("x86_64", "aarch64"): Target(
        machine="aarch64",
        triple="aarch64-linux-gnu",
        package="g++-aarch64-linux-gnu",
        wheels=(
            "manylinux2014_aarch64",
            *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 36)),
        ),
    ),
}


def this_machine() -> str:
    return machine_info.machine()


def machine_of(asked: str) -> tuple[str, str | None]:
    """The machine of ``auto``, ``x86_64`` or ``manylinux_2_28_aarch64``, and the tag if given."""
    text = this_machine() if asked == "auto" else asked
    match = re.fullmatch(r"(?:(manylinux_\d+_\d+|linux)_)?(x86_64|aarch64)", text)
    if match is None:
        raise UsageError(
            f"--platform {text!r} is neither x86_64 nor aarch64 nor a tag of one",
            next="python build.py --platform manylinux_2_28_aarch64 ...",
        )
    given = match[1] is not None and match[1] != "linux"
    return match[2], text if given else None


def target_of(machine: str) -> Target | None:
    """How to compile for that machine: None for this one's own compiler.

    UsageError where nothing on this machine can.
    """
    here = this_machine()
    if machine == here:
        return None
    try:
        return TARGETS[here, machine]
    except KeyError:
        raise UsageError(
            f"this machine is {here}; it compiles nothing for {machine}",
            next=f"run the build on a machine of {machine}, or take upstream's binaries: "
            "--native none",
        ) from None


def reachable(machine: str) -> bool:
    """Whether there is a way to compile for that machine here."""
    return machine == this_machine() or (this_machine(), machine) in TARGETS


def library_folders(target: Target) -> tuple[Path, ...]:
    """Where the cross compiler's own C and C++ libraries lie."""
    compiler = target.tool("g++")
    names = ("libc.so.6", "libstdc++.so.6", "libgcc_s.so.1")
    said = [run.output([compiler, f"-print-file-name={name}"]).decode().strip() for name in names]
    # It prints the bare name of what it doesn't find.
    found = [Path(path).resolve().parent for path in said if "/" in path]
    return tuple(dict.fromkeys(found))


def cmake_entries(
    target: Target, *, toolkit: Path, packages: Path, headers: Path
) -> dict[str, str]:
    """What CMake is told of the target. packages: where its torch lies. headers: Python's.

    Libraries and headers come from these folders alone: this machine's would fit by their names.
    """
    roots = [folder.parent for folder in library_folders(target)] + [packages, toolkit]
    return {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": target.machine,
        "CMAKE_C_COMPILER": target.tool("gcc"),
        "CMAKE_CXX_COMPILER": target.tool("g++"),
        "CMAKE_CUDA_HOST_COMPILER": target.tool("g++"),
        "CMAKE_FIND_ROOT_PATH": ";".join(map(str, roots)),
        "CMAKE_FIND_ROOT_PATH_MODE_LIBRARY": "ONLY",
        "CMAKE_FIND_ROOT_PATH_MODE_INCLUDE": "ONLY",
        "CMAKE_FIND_ROOT_PATH_MODE_PROGRAM": "NEVER",
        "Python_INCLUDE_DIR": str(headers),
    }
