# SPDX-License-Identifier: Apache-2.0
"""Real wheels: the same bytes from an empty folder each time, a true record, and pip takes them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe.bases.releases import Bases
from tests.recipe.world import MACHINE, Checkout


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder for wheels, emptied afterwards: they are large."""
    yield tmp_path
    for path in tmp_path.rglob("*.whl"):
        path.unlink()


def command(out: Path, tag: str, machine: str) -> list[str]:
    command = ["build", "--base", tag, "--platform", machine, "--no-test", "--json"]
    return [*command, "--native", "none", "--out", str(out)]


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_record(wheel: Path, report: dict[str, Any], bases: Bases) -> None:
    """The record inside, held against the wheel's members, its report and the pins."""
    base = bases.find(report["base"])
    with zipfile.ZipFile(wheel) as archive:
        info = f"vllm-{report['version']}.dist-info"
        record = json.loads(archive.read(f"{info}/sm12x/record.json"))
        for row in record["files"]:
            assert hashlib.sha256(archive.read(row["path"])).hexdigest() == row["sha256"]
        for row in record["patches"]:
            content = archive.read(f"{info}/sm12x/patches/{row['path']}")
            assert hashlib.sha256(content).hexdigest() == row["sha256"]
        names = set(archive.namelist())
        version = archive.read("vllm/_version.py").decode()
    assert record["upstream_commit"] == base.commit
    assert f"commit_id = 'g{base.commit}'" in version
    assert record["published_wheel"]["sha256"] in {a.sha256 for a in base.wheels.values()}
    assert record["patchset_digest"] == report["patchset_digest"]
    assert [row["path"] for row in record["patches"]] == report["patches"]
    assert record["not_in_this_wheel"] == report["not_in_this_wheel"]
    assert {row["name"] for row in record["components"]} == set(base.components)
    assert {file for row in record["components"] for file in row["files"]} <= names
    assert any(name.startswith("vllm/sm12x/") for name in names)
    assert "vllm/sm12x/__init__.py" in {row["path"] for row in record["files"]}


@pytest.mark.parametrize(
    ("tag", "machine"), [("v0.20.2", "x86_64"), ("v0.33.0", "aarch64"), ("v0.33.0", "x86_64")]
)
def test_two_builds_at_once_give_the_same_bytes(
    real: Checkout, bases: Bases, out: Path, tag: str, machine: str
) -> None:
    runs = [real.start(*command(out / name, tag, machine)) for name in ("one", "two")]
    said = [run.communicate() for run in runs]

    assert [run.returncode for run in runs] == [0, 0], said
    first, second = (next((out / name).glob("*.whl")) for name in ("one", "two"))
    report = json.loads(said[0][0])
    assert sha256(first) == sha256(second) == report["sha256"]
    assert first.name.endswith(f"_{machine}.whl")
    assert first.name == report["wheel"] == second.name
    check_record(first, report, bases)


def test_two_builds_into_one_folder_wait_for_each_other_and_pip_takes_the_wheel(
    real: Checkout, out: Path
) -> None:
    runs = [real.start(*command(out / "dist", "v0.20.2", "x86_64")) for _ in range(2)]
    said = [run.communicate() for run in runs]

    assert [run.returncode for run in runs] == [0, 0], said
    assert sum("another run is using the folder" in err for _, err in said) == 1
    (wheel,) = (out / "dist").glob("*.whl")
    assert [json.loads(text)["sha256"] for text, _ in said] == [sha256(wheel)] * 2
    assert not list((out / "dist").glob(".vllm-sm12x.*"))
    if MACHINE == "x86_64":
        check_installed(wheel, out / "site", json.loads(said[0][0])["version"])


def check_installed(wheel: Path, site: Path, version: str) -> None:
    """pip takes the wheel, and what it installed says our version."""
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile"]
    env = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    subprocess.run([*install, "-q", "--target", str(site), str(wheel)], check=True, env=env)

    # vllm/__init__.py needs torch: a path of its own lets the two modules be imported without it.
    read = "import sys, types; p = types.ModuleType('vllm'); "
    read += f"p.__path__ = [{str(site / 'vllm')!r}]; sys.modules['vllm'] = p; "
    read += "import vllm.sm12x, vllm._version as v, importlib.metadata as m; "
    read += "print(v.version, m.distribution('vllm').version)"
    done = subprocess.run(
        [sys.executable, "-c", read],
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [version] * 2
