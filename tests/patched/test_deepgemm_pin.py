# SPDX-License-Identifier: Apache-2.0
"""DeepGEMM's commit stands in one place, and the CMake file and the shell script read it there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cmake_excerpt import run_script
from packaging.version import Version

# Stands in for CMake's own module: it says what would be fetched and ends there.
FETCH_CONTENT = """
macro(say)
  message("FETCH ${ARGN}")
  return()
endmacro()
macro(FetchContent_Declare)
  say(${ARGN})
endmacro()
macro(FetchContent_Populate)
  say(${ARGN})
endmacro()
"""


@pytest.fixture
def files(base: Version, tree: Path, tmp_path: Path) -> Path:
    """A copy of the files concerned, to be changed at will."""
    if base >= Version("0.33"):
        pytest.skip("upstream has one copy of the pin here")
    (tmp_path / "cmake" / "external_projects").mkdir(parents=True)
    (tmp_path / "tools").mkdir()
    for name in (
        "cmake/external_projects/deepgemm.cmake",
        "cmake/sm12x.cmake",
        "cmake/sm12x_pins.cmake",
        "tools/install_deepgemm.sh",
        "tools/sm12x_pins.sh",
    ):
        shutil.copy(tree / name, tmp_path / name)
    return tmp_path


def fetched(files: Path) -> tuple[str, str]:
    """Repository and commit that the CMake file would fetch."""
    modules = files / "modules"
    modules.mkdir(exist_ok=True)
    (modules / "FetchContent.cmake").write_text(FETCH_CONTENT, encoding="utf-8")
    folder = files / "cmake" / "external_projects"
    script = f"set(CMAKE_MODULE_PATH {modules})\nset(FETCHCONTENT_BASE_DIR {files}/deps)\n"
    script += f"include({folder}/deepgemm.cmake)\n"
    said = re.search(r"FETCH (.*)", run_script(script, folder))
    assert said is not None
    options = said[1].split(";")
    return options[options.index("GIT_REPOSITORY") + 1], options[options.index("GIT_TAG") + 1]


def script_default(files: Path) -> str:
    """The commit that the install script's help names as its default."""
    script = files / "tools" / "install_deepgemm.sh"
    done = subprocess.run(
        ["bash", str(script), "--help"], cwd=files, capture_output=True, text=True, check=True
    )
    found = re.search(r"--ref REF .*\(default: (\w+)\)", done.stdout)
    assert found is not None
    return found[1]


def test_the_build_and_the_script_name_the_same_commit(files: Path) -> None:
    repository, commit = fetched(files)
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    assert script_default(files) == commit
    assert repository.endswith("DeepGEMM.git")


def test_a_lifted_pin_is_lifted_in_both(files: Path) -> None:
    _, old = fetched(files)
    lifted = "0123456789" * 4
    for name in ("cmake/sm12x_pins.cmake", "tools/sm12x_pins.sh"):
        path = files / name
        path.write_text(path.read_text(encoding="utf-8").replace(old, lifted), encoding="utf-8")
    assert fetched(files)[1] == lifted
    assert script_default(files) == lifted
