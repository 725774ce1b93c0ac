# SPDX-License-Identifier: Apache-2.0
"""Run pieces of the real CMake files in CMake's script mode, for any CUDA version, without CUDA."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

SUPPORTED = re.compile(
    r"^if\(DEFINED CMAKE_CUDA_COMPILER_VERSION AND[\s\S]*?^endif\(\)$", re.MULTILINE
)


def run_script(script: str, folder: Path) -> str:
    """What ``cmake -P`` prints for a script whose CMAKE_CURRENT_LIST_DIR is `folder`."""
    path = folder / "sm12x_excerpt.cmake"
    path.write_text(script, encoding="utf-8")
    try:
        done = subprocess.run(
            ["cmake", "-P", str(path)], capture_output=True, text=True, check=False
        )
    finally:
        path.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def list_lines(cmake: str, prefix: str) -> str:
    """The lines that compute the lists of `prefix` (MARLIN, MARLIN_MOE), with their if()."""
    lines = cmake.splitlines()
    call = re.compile(rf"\s*cuda_archs_loose_intersection\({prefix}_(?!MOE)\w+ ")
    hits = [number for number, line in enumerate(lines) if call.match(line)]
    first, last = hits[0], hits[-1]
    while lines[first - 1].strip().startswith(("if(", "if (", "#", "include(")):
        first -= 1
    return "\n".join(lines[first : last + 1])


def arch_lists(tree: Path, prefix: str, *, cuda: str, asked: str) -> dict[str, list[str]]:
    """Each architecture list of `prefix` as the tree's own CMake computes it."""
    cmake = (tree / "CMakeLists.txt").read_text(encoding="utf-8")
    piece = list_lines(cmake, prefix)
    names = sorted(set(re.findall(rf"\(({prefix}_(?!MOE)\w+) ", piece)))
    shown = "".join(f'message("{name}=${{{name}}}")\n' for name in names)
    return parse_lists(run_script(preamble(tree, cmake, cuda, asked) + piece + "\n" + shown, tree))


def preamble(tree: Path, cmake: str, cuda: str, asked: str) -> str:
    """Upstream's functions and CUDA_ARCHS as upstream derives it from what was asked."""
    supported = SUPPORTED.search(cmake)
    assert supported is not None
    return f"""
include({tree}/cmake/utils.cmake)
set(CMAKE_CUDA_COMPILER_VERSION {cuda})
{supported[0]}
cuda_archs_loose_intersection(CUDA_ARCHS "${{CUDA_SUPPORTED_ARCHS}}" "{asked}")
"""


def parse_lists(output: str) -> dict[str, list[str]]:
    pairs = re.findall(r"^([A-Z0-9_]+)=(.*)$", output, re.MULTILINE)
    return {name: value.split(";") if value else [] for name, value in pairs}
