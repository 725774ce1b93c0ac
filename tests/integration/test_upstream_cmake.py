# SPDX-License-Identifier: Apache-2.0
"""Our reading of upstream's architecture rules, held against upstream's own CMake of every base."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.version import Version

from recipe.bases.releases import Bases, load_bases
from recipe.bases.sources import from_sdist, store_of
from recipe.gpu.arch import loose_intersection, supported
from recipe.ground.project import Project
from tests.recipe.world import CHECKOUT, Checkout

TAGS = [base.tag for base in load_bases(CHECKOUT / "bases.toml").releases]
TARGETS = [
    "12.0",
    "12.1",
    "12.0a",
    "12.1a",
    "12.0f",
    "12.1f",
    "12.0;12.1",
    "12.0a;12.1a",
    "12.0f;12.1",
    "12.0;12.0a",
    "12.1;12.1a;12.0",
    "8.0;12.0",
    "9.0a;10.0a;12.0a",
    "7.5;8.0;8.6;8.9;9.0;10.0;12.0",
    "8.9;9.0a;10.0f;10.3;11.0;12.0;12.1",
    "10.0;10.3a;12.1a",
]
SCRIPT = """\
cmake_minimum_required(VERSION 3.20)
include("{functions}")
{calls}
"""


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a base's CMake says: CMakeLists.txt, cmake/utils.cmake, and the one function of it."""

    version: Version
    cmake: str
    utils: str
    function: str


@pytest.fixture(scope="module", params=TAGS)
def release(real: Checkout, bases: Bases, request: pytest.FixtureRequest) -> Release:
    project = Project(root=real.root, cache=real.cache)
    base = bases.find(request.param)
    commit = from_sdist(project, base, offline=False).commit
    store = store_of(project)
    utils = store.read(commit, "cmake/utils.cmake").decode()
    return Release(
        version=base.version,
        cmake=store.read(commit, "CMakeLists.txt").decode(),
        utils=utils,
        function=function_text(utils),
    )


def function_text(text: str, name: str = "cuda_archs_loose_intersection") -> str:
    found = re.search(
        rf"^(?:function|macro)\({name}.*?^end(?:function|macro)\(\)$",
        text,
        re.DOTALL | re.MULTILINE,
    )
    assert found is not None
    return found[0]


def source_lists(cmake: str) -> list[str]:
    """Every literal source list of a call in CMakeLists.txt, and the toolkits' own lists."""
    calls = re.findall(r'cuda_archs_loose_intersection\(\s*\w+\s+"([^"$]+)"', cmake)
    toolkits = re.findall(r'set\(CUDA_SUPPORTED_ARCHS\s+"([^"]+)"', cmake)
    assert toolkits
    assert len(calls) > 10
    return sorted({*calls, *toolkits})


def parts(text: str) -> tuple[str, ...]:
    """A CMake list without its empty elements, which foreach() skips."""
    return tuple(part for part in text.split(";") if part)


def run_cmake(script: Path) -> list[str]:
    """The answers that a script prints, in order, by the CMake of the test environment."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("cmake")), "-P", str(script)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stderr.splitlines()
    return [line.removeprefix("answer:") for line in lines if line.startswith("answer:")]


def upstream_answers(functions: Path, pairs: list[tuple[str, str]]) -> list[str]:
    calls = "\n".join(
        f'cuda_archs_loose_intersection(OUT "{source}" "{target}")\n'
        f'message(NOTICE "answer:${{OUT}}")'
        for source, target in pairs
    )
    script = functions.with_name("ask.cmake")
    script.write_text(SCRIPT.format(functions=functions, calls=calls), encoding="utf-8")
    return run_cmake(script)


def our_answer(release: Release, source: str, target: str) -> str:
    return ";".join(loose_intersection(parts(source), parts(target), release.version))


def disagreements(release: Release, folder: Path, wanted: str) -> list[str]:
    functions = folder / "function.cmake"
    functions.write_text(release.function, encoding="utf-8")
    sources = [source for source in source_lists(release.cmake) if re.fullmatch(wanted, source)]
    assert len(sources) > 1
    pairs = [(source, target) for source in sources for target in TARGETS]
    answers = upstream_answers(functions, pairs)
    assert len(answers) == len(pairs)
    return [
        f"{source} x {target}: upstream {answer}, ours {ours}"
        for (source, target), answer in zip(pairs, answers, strict=True)
        if (ours := our_answer(release, source, target)) != answer
    ]


def test_a_toolkits_list_meets_a_request_as_upstream_has_it(
    release: Release, tmp_path: Path
) -> None:
    """The use that the plan makes of the function: plain lists, without suffixes."""
    assert disagreements(release, tmp_path, r"[\d.;]+") == []


def test_any_list_meets_a_request_as_upstream_has_it(release: Release, tmp_path: Path) -> None:
    assert disagreements(release, tmp_path, r".*") == []


def test_the_toolkits_list_is_upstreams_own(release: Release, tmp_path: Path) -> None:
    """The if-block of CMakeLists.txt itself, run by CMake for each toolkit."""
    block = re.search(
        r"^if\(DEFINED CMAKE_CUDA_COMPILER_VERSION AND\n(?:(?!^endif).)*?CUDA_SUPPORTED_ARCHS"
        r".*?^endif\(\)$",
        release.cmake,
        re.DOTALL | re.MULTILINE,
    )
    assert block is not None
    for cuda in ("12.6", "12.8", "12.9", "13.0", "13.1", "13.4"):
        script = tmp_path / "toolkit.cmake"
        script.write_text(
            f"set(CMAKE_CUDA_COMPILER_VERSION {cuda}.20)\n{block[0]}\n"
            'message(NOTICE "answer:${CUDA_SUPPORTED_ARCHS}")\n',
            encoding="utf-8",
        )
        assert run_cmake(script) == [";".join(supported(release.cmake, cuda))], cuda


def test_a_request_for_ptx_is_dropped_as_upstream_drops_it(
    release: Release, tmp_path: Path
) -> None:
    """torch's flags for 12.0+PTX, read back by upstream's own function: nothing of PTX is left."""
    names = ("string_to_ver", "extract_unique_cuda_archs_ascending")
    script = tmp_path / "flags.cmake"
    flags = [f"-gencode arch=compute_120,code={code}" for code in ("sm_120", "compute_120")]
    script.write_text(
        "\n".join(function_text(release.utils, name) for name in names)
        + f"""
set(FLAGS "{";".join(flags)}")
extract_unique_cuda_archs_ascending(OUT "${{FLAGS}}")
message(NOTICE "answer:${{OUT}}")
""",
        encoding="utf-8",
    )
    assert run_cmake(script) == ["12.0"]
