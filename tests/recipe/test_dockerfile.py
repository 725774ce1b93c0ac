# SPDX-License-Identifier: Apache-2.0
"""The image's recipe: what a linter says of it, and that it brings what a build reads."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from collections.abc import Mapping
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
        ("overlay/vllm/vllm/sm12x/envs/__init__.py", True),
        ("recipe/cli/main.py", True),
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


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def run_script(tmp_path: Path, extra: list[str], **variables: str) -> list[str]:
    """The words that the script gives to build.py, with a python3 that prints them."""
    program(tmp_path / "python3", 'printf "%s\\n" "$@"')
    return start_script(tmp_path, extra, variables).stdout.splitlines()


def start_script(
    tmp_path: Path, extra: list[str], variables: Mapping[str, str], *, check: bool = True
) -> subprocess.CompletedProcess[str]:
    told = {"BASE": "v0.33.0", "ARCH": "12.0;12.1", "NATIVE": "all", "PLATFORM": "auto"}
    empty = {"JOBS": "", "COMPILER_CACHE": "", "TEST_TORCH": ""}
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    return subprocess.run(
        [str(SCRIPT), *extra],
        env={**environment, **told, **empty, **variables},
        capture_output=True,
        text=True,
        check=check,
    )


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
    serve = next(stage for stage in stages if " AS serve" in stage)
    assert not any("USER" in stage for stage in stages if stage not in (tools, serve))


def test_the_stage_that_serves_is_looked_at_and_runs_without_rights() -> None:
    stages = re.split(r"^FROM ", TEXT, flags=re.M)[1:]
    serve = next(stage for stage in stages if " AS serve" in stage)
    # What is installed belongs to the user, and the doctor is the last word on it.
    assert serve.index("USER 10001:10001") < serve.index("pip install")
    assert serve.rindex("vllm.sm12x.doctor") > serve.rindex("pip install")
    for word in ("HEALTHCHECK", "VOLUME /models", "HF_HOME=/models"):
        assert word in serve
    # `docker build .` still makes a wheel.
    assert stages[-1].startswith("scratch AS wheel")


RECIPES = ROOT / "overlay" / "vllm" / "vllm" / "sm12x" / "recipes"


def test_what_the_image_and_compose_name_by_themselves_is_there() -> None:
    compose = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    named = re.findall(r"RECIPE:-([\w.-]+?)\}", compose) + re.findall(r"RECIPE=(\S+)", compose)
    named += re.findall(r"recipes/([\w.-]+)\.yaml", TEXT)
    assert len(named) >= 4
    for name in named:
        assert (RECIPES / f"{name}.yaml").is_file(), name
    assert set(re.findall(r"--profile (\w+)", compose)) == set(
        re.findall(r"profiles: \[(\w+)\]", compose)
    )


def test_a_secret_is_read_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    password = f"p$HOME&a;touch {ran} `touch {ran}` 'q\" \\n#= "
    secret = tmp_path / "cache.env"
    text = f"# ours\n\nSCCACHE_REDIS_PASSWORD={password}\nSCCACHE_BUCKET=last"
    secret.write_text(text, encoding="utf-8")
    program(tmp_path / "python3", 'printf "%s\\n" "$SCCACHE_REDIS_PASSWORD" "$SCCACHE_BUCKET"')

    done = start_script(tmp_path, [], {"SCCACHE_SECRET": str(secret)})

    assert done.stdout == f"{password}\nlast\n"
    assert not ran.exists()


@pytest.mark.parametrize("line", ["export A=b", "A = b", "password", "=b", "1A=b"])
def test_a_line_of_a_secret_that_names_nothing_is_refused_and_not_shown(
    tmp_path: Path, line: str
) -> None:
    secret = tmp_path / "cache.env"
    secret.write_text(f"A=b\n{line}\n", encoding="utf-8")

    done = start_script(tmp_path, [], {"SCCACHE_SECRET": str(secret)}, check=False)

    assert done.returncode == 2
    assert "line 2 of the secret" in done.stderr
    assert line not in done.stderr


def install_tools(tmp_path: Path, *, packaged: bool, rust: str) -> tuple[int, str, str]:
    """Run what the stage `tools` runs, with programs that write down what they were told."""
    said = tmp_path / "said"
    for name in ("apt-get", "rm", "rustup", "useradd"):
        program(tmp_path / name, f'echo "{name} $*" >>{said}')
    program(tmp_path / "apt-cache", f"exit {0 if packaged else 100}")
    tools = next(one for one in re.split(r"^FROM ", TEXT, flags=re.M) if " AS tools" in one)
    (text,) = re.findall(r"^RUN (apt-get .*?[^\\])\n", tools, re.M | re.S)
    environment = {"PATH": str(tmp_path), "RUST": rust}
    done = subprocess.run(
        ["/bin/sh", "-c", text], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, said.read_text(encoding="utf-8"), done.stderr


def test_rust_is_installed_where_the_distribution_has_it(tmp_path: Path) -> None:
    status, said, _ = install_tools(tmp_path, packaged=True, rust="1.95")
    assert status == 0
    assert re.search(r"^apt-get install .* rustup$", said, re.M)
    assert "rustup toolchain install --profile minimal 1.95\n" in said


def test_a_distribution_without_rustup_is_told_before_anything_is_installed(
    tmp_path: Path,
) -> None:
    status, said, errors = install_tools(tmp_path, packaged=False, rust="1.95")
    assert status == 8
    assert "RUST=" in errors
    assert "BASE_IMAGE" in errors
    assert "install" not in said


def test_without_rust_no_rustup_is_needed(tmp_path: Path) -> None:
    status, said, _ = install_tools(tmp_path, packaged=False, rust="")
    assert status == 0
    assert "rustup" not in said


def test_a_bases_own_toolkit_and_constraints_are_not_taken_for_the_builds() -> None:
    (line,) = re.findall(r"^ENV (RUSTUP_HOME.*)$", TEXT, re.M)
    cleared = {word.removesuffix("=") for word in line.split() if word.endswith("=")}
    assert cleared == {"CUDA_HOME", "CUDA_PATH", "PIP_CONSTRAINT"}
    assert "/opt/cargo" not in TEXT


def test_each_kind_of_machine_has_a_cache_of_its_own() -> None:
    mounts = re.findall(r"--mount=type=cache,(\S+)", TEXT)
    assert len(mounts) == 2
    assert all("id=vllm-sm12x-$TARGETARCH" in mount.split(",") for mount in mounts)
    (stage,) = re.findall(r"^FROM tools AS build\n(.*?)^FROM ", TEXT, re.M | re.S)
    assert "ARG TARGETARCH\n" in stage
