# SPDX-License-Identifier: Apache-2.0
"""The image's recipe: what a linter says of it, and that it brings what a build reads."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SCRIPT = ROOT / "tools" / "image_build.sh"


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    command = [str(hadolint), "--no-color", "--failure-threshold", "style", "Dockerfile"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def kept(path: str) -> bool:
    """Whether .dockerignore lets a path into the image: the last line that fits decides."""
    keep = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!").removeprefix("**/")
        parents = [path, *map(str, Path(path).parents)]
        names = [Path(one).name for one in parents] if "**/" in rule else parents
        if any(fnmatch.fnmatch(name, pattern) for name in names):
            keep = rule.startswith("!")
    return keep


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("build.py", True),
        ("bases.toml", True),
        ("series.txt", True),
        ("patches/vllm/env-registration.patch", True),
        ("overlay/vllm/vllm/sm12x/envs.py", True),
        ("recipe/cli.py", True),
        ("recipe/matrix.css", True),
        ("requirements/recipe.lock", True),
        ("tests/wheel-env.toml", True),
        ("tools/image_build.sh", True),
        (".git/config", False),
        (".venv/recipe-1/pyvenv.cfg", False),
        ("dist/x.whl", False),
        ("README.md", False),
        ("recipe/__pycache__/cli.pyc", False),
    ],
)
def test_the_image_gets_what_a_build_reads_and_no_more(path: str, wanted: bool) -> None:
    assert kept(path) is wanted


def run_script(tmp_path: Path, extra: list[str], **variables: str) -> list[str]:
    """The words that the script gives to build.py, with a python3 that prints them."""
    fake = tmp_path / "python3"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    fake.chmod(0o755)
    told = {"BASE": "v0.33.0", "ARCH": "12.0;12.1", "NATIVE": "all", "PLATFORM": "auto"}
    empty = {"JOBS": "", "COMPILER_CACHE": "", "TEST_TORCH": ""}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [str(SCRIPT), *extra],
        env=environment | told | empty | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_what_is_not_given_is_left_to_build_py(tmp_path: Path) -> None:
    words = run_script(tmp_path, ["--no-test"])

    assert words[:4] == ["build.py", "build", "--out", f"{tmp_path}/dist"]
    assert "--no-test" in words
    assert "12.0;12.1" in words
    assert not {"--jobs", "--compiler-cache", "--test-torch", "--sources"} & set(words)


def test_arguments_of_the_image_become_options(tmp_path: Path) -> None:
    words = run_script(tmp_path, [], JOBS="4", COMPILER_CACHE="sccache", TEST_TORCH="2.13.0")

    for option, value in (("--jobs", "4"), ("--compiler-cache", "sccache")):
        assert words[words.index(option) + 1] == value
    assert words[words.index("--test-torch") + 1] == "2.13.0"


def test_every_argument_of_the_script_is_one_of_the_image() -> None:
    used = set(re.findall(r'"\$([A-Z_]+)"', SCRIPT.read_text(encoding="utf-8"))) - {"HOME"}

    assert used == {"BASE", "ARCH", "NATIVE", "PLATFORM", "JOBS", "COMPILER_CACHE", "TEST_TORCH"}
    assert used <= set(re.findall(r"^ARG (\w+)", TEXT, re.M))


def test_no_stage_that_builds_runs_as_root() -> None:
    stages = re.split(r"^FROM ", TEXT, flags=re.M)[1:]
    tools = next(stage for stage in stages if " AS tools" in stage)

    assert tools.rindex("USER 10001:10001") > tools.rindex("RUN ")
    assert not any("USER" in stage for stage in stages if stage is not tools)
