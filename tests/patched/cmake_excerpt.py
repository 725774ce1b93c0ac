# SPDX-License-Identifier: Apache-2.0
"""Run pieces of the real CMake files in CMake's script mode, for any CUDA version, without CUDA."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SUPPORTED = re.compile(
    r"^if\(DEFINED CMAKE_CUDA_COMPILER_VERSION AND[\s\S]*?^endif\(\)$", re.MULTILINE
)
DEEPGEMM = "DEEPGEMM"


@dataclass(frozen=True)
class Query:
    """Which lists (MARLIN, MARLIN_MOE, DEEPGEMM), with which toolkit, for which asked list."""

    prefix: str
    cuda: str
    asked: str


def run_script(script: str, folder: Path) -> str:
    """What ``cmake -P`` prints for a script that stands in `folder`."""
    path = folder / "sm12x_excerpt.cmake"
    path.write_text("cmake_minimum_required(VERSION 3.26)\n" + script, encoding="utf-8")
    try:
        done = subprocess.run(
            ["cmake", "-P", str(path)], capture_output=True, text=True, check=False
        )
    finally:
        path.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def arch_lists(tree: Path, queries: Iterable[Query]) -> dict[Query, dict[str, list[str]]]:
    """Each architecture list as the tree's own CMake computes it, all in one CMake process."""
    asked = list(queries)
    cmake = (tree / "CMakeLists.txt").read_text(encoding="utf-8")
    script = f"include({tree}/cmake/utils.cmake)\n"
    script += "".join(block(number, query, tree, cmake) for number, query in enumerate(asked))
    found: dict[Query, dict[str, list[str]]] = {query: {} for query in asked}
    output = run_script(script, tree)
    for number, name, value in re.findall(r"^(\d+):([A-Z0-9_]+)=(.*)$", output, re.MULTILINE):
        found[asked[int(number)]][name] = value.split(";") if value else []
    return found


def block(number: int, query: Query, tree: Path, cmake: str) -> str:
    """One query in a scope of its own: CUDA_ARCHS as upstream derives it, then the lists."""
    supported = SUPPORTED.search(cmake)
    assert supported is not None
    piece = excerpt(tree, cmake, query.prefix)
    # The line that the series puts before upstream's intersection, in the patched tree alone.
    restored = next((line for line in cmake.splitlines() if "sm12x_archs.cmake" in line), "")
    names = sorted(set(re.findall(rf"\b({query.prefix}_(?!MOE)(?:\w+_)?ARCHS)\b", piece)))
    return f"""
block()
set(CMAKE_CUDA_COMPILER_VERSION {query.cuda})
{supported[0]}
set(VLLM_GPU_LANG CUDA)
set(CUDA_ARCHS "{query.asked}")
{restored.replace("include(", f"include({tree}/")}
cuda_archs_loose_intersection(CUDA_ARCHS "${{CUDA_SUPPORTED_ARCHS}}" "${{CUDA_ARCHS}}")
{piece}
{"".join(f'message("{number}:{name}=${{{name}}}"){chr(10)}' for name in names)}
endblock()
"""


def excerpt(tree: Path, cmake: str, prefix: str) -> str:
    """The lines that compute the lists of `prefix`, with their if() and include()."""
    folder = tree
    if prefix == DEEPGEMM:
        folder = tree / "cmake" / "external_projects"
        text = (folder / "deepgemm.cmake").read_text(encoding="utf-8")
        piece = text[text.index("set(DEEPGEMM_SUPPORT_ARCHS)") : text.index("if(DEEPGEMM_ARCHS)")]
    else:
        lines = cmake.splitlines()
        call = re.compile(rf"\s*cuda_archs_loose_intersection\({prefix}_(?!MOE)\w+ ")
        hits = [number for number, line in enumerate(lines) if call.match(line)]
        first, last = hits[0], hits[-1]
        while lines[first - 1].strip().startswith(("if(", "if (", "#", "include(")):
            first -= 1
        piece = "\n".join(lines[first : last + 1])
    # The piece runs from another file than the one it stands in.
    return piece.replace("${CMAKE_CURRENT_LIST_DIR}", str(folder))
