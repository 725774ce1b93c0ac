# SPDX-License-Identifier: Apache-2.0
"""The overlay's tools start from an installed wheel that stands alone: no torch, no dependency."""

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.version import Version


@pytest.fixture(scope="module")
def alone(base: Version, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with this wheel's files and metadata, as `pip install --no-deps` leaves it."""
    import vllm

    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "vllm").symlink_to(Path(vllm.__path__[0]), target_is_directory=True)
    installed = Path(vllm.__path__[0]).parent
    (metadata,) = installed.glob("vllm-*.dist-info")
    (site / metadata.name).symlink_to(metadata, target_is_directory=True)
    return folder / "bin" / "python"


def run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    return subprocess.run([python, *words], env=kept, capture_output=True, text=True)


def test_the_doctor_says_what_is_missing(alone: Path) -> None:
    done = run(alone, "-m", "vllm.sm12x.doctor")
    assert done.returncode == 8, done.stderr
    assert done.stderr == ""
    assert "Type: python -m pip install " in done.stdout and "without --no-deps" in done.stdout
    assert "not installed: vllm can't work without them" in done.stdout.replace("are ", "")


def test_the_doctor_has_its_paths_all_the_same(alone: Path, base: Version) -> None:
    done = run(alone, "-m", "vllm.sm12x.doctor", "--device", "12.1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["paths"]


@pytest.mark.parametrize("tool", ["selftest", "recipes", "soak"])
def test_every_tool_ends_in_words(alone: Path, tool: str) -> None:
    done = run(alone, "-m", f"vllm.sm12x.{tool}", "--help")
    assert done.returncode == 0, done.stderr
    assert f"vllm.sm12x.{tool}" in done.stdout and "Traceback" not in done.stderr


def test_the_selftest_says_that_torch_lacks(alone: Path) -> None:
    done = run(alone, "-m", "vllm.sm12x.selftest")
    assert done.returncode == 8, done.stderr
    assert "torch isn't installed" in done.stderr and "Traceback" not in done.stderr
    assert "python -m vllm.sm12x.doctor" in done.stderr


ASKS = "import sys, vllm; print('vllm.env_override' in sys.modules)"


def test_whatever_else_imports_vllm_gets_all_of_it(base: Version, tmp_path: Path) -> None:
    """By -c, by a file, and by -m with a name that isn't the overlay's."""
    (tmp_path / "vllmish.py").write_text(ASKS, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for words in (["-c", ASKS], [str(tmp_path / "vllmish.py")], ["-m", "vllmish"]):
        done = subprocess.run(
            [sys.executable, *words, "-m", "vllm.sm12x.doctor"],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.stdout.split()[-1] == "True", (words, done.stderr)


def test_a_tool_does_not_import_torch_where_it_is(base: Version) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vllm.sm12x.soak", "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert distribution("torch").version and "| torch\n" not in done.stderr
    assert "vllm.sm12x.seams.tools" in done.stderr
