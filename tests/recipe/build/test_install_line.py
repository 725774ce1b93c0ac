# SPDX-License-Identifier: Apache-2.0
"""The line that a build ends with installs the wheel it made, with what the wheel needs."""

from __future__ import annotations

import platform
import shlex
from pathlib import Path

import pytest

from recipe.build.report import install_line

MACHINE = platform.machine()
OTHER = "aarch64" if MACHINE == "x86_64" else "x86_64"


def wheel(machine: str) -> str:
    return f"vllm-0.33.0+sm12x.1-cp38-abi3-manylinux_2_17_{machine}.whl"


@pytest.mark.parametrize("folder", ["dist", "my wheels/$new"])
def test_a_shell_reads_the_whole_name_and_dependencies_come_along(folder: str) -> None:
    path = Path(folder) / wheel(MACHINE)
    assert shlex.split(install_line(path)) == ["pip", "install", str(path)]


def test_a_wheel_for_another_machine_is_not_to_be_installed_here() -> None:
    line = install_line(Path("dist") / wheel(OTHER))
    assert line.startswith("on the machine that it is for: pip install vllm-")
