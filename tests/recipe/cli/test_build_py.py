# SPDX-License-Identifier: Apache-2.0
"""build.py before there is an environment: what the caller has set decides nothing, and no
traceback is left."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import packaging
import pytest

from recipe.ground.environments import callers
from tests.recipe import small
from tests.recipe.packages import pure_wheel
from tests.recipe.server import Index
from tests.recipe.world import CHECKOUT

MAIN = b"import os, sys\nprint(sys.argv[1:], sorted(n for n in os.environ if n[:6] == 'PYTHON'))\n"
# The real one: build.py asks it which lines of a lock are for this Python.
PACKAGING = Path(packaging.__path__[0])


def packaging_wheel() -> bytes:
    files = {
        f"packaging/{path.relative_to(PACKAGING).as_posix()}": path.read_bytes()
        for path in PACKAGING.rglob("*.py")
    }
    return pure_wheel("packaging", "26.0", files)


class Bare:
    """A checkout with build.py, a lock of two packages, and a recipe that says what it is given."""

    def __init__(self, root: Path, index: Index) -> None:
        self.root = root
        wheels = {
            "packaging-26.0-py3-none-any.whl": packaging_wheel(),
            "needed-1.0-py3-none-any.whl": pure_wheel(
                "needed", "1.0", {"needed.py": b"there = 1\n"}
            ),
        }
        (root / "requirements").mkdir(parents=True)
        lock = ""
        for name, content in wheels.items():
            project, version = name.split("-")[:2]
            index.add(project, name, content)
            lock += f"{project}=={version} \\\n    --hash=sha256:{small.sha256(content)}\n"
        lock += "never==9 ; sys_platform == 'win32' \\\n    --hash=sha256:" + "0" * 64 + "\n"
        (root / "requirements" / "recipe.lock").write_text(lock, encoding="utf-8")
        shutil.copy(CHECKOUT / "build.py", root / "build.py")
        (root / "recipe" / "ground" / "environments").mkdir(parents=True)
        rules = Path("recipe", "ground", "environments", "callers.py")
        shutil.copy(CHECKOUT / rules, root / rules)
        (root / "recipe" / "__main__.py").write_bytes(b"import needed\n" + MAIN)
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("PIP_", "PYTHON"))}
        self.env = {**clean, "PIP_INDEX_URL": index.url, "HOME": str(root / "home")}

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.root / "build.py"), *args],
            env={**self.env, **env},
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*args, **env)
        out, err = process.communicate()
        assert "Traceback" not in err, err
        return process.returncode, out, err

    @property
    def environments(self) -> list[Path]:
        return sorted((self.root / ".venv").glob("recipe-*"))


@pytest.fixture
def bare(tmp_path: Path, index: Index) -> Bare:
    return Bare(tmp_path / "checkout", index)


HOSTILE = {
    "PIP_TARGET": "{place}/target",
    "PIP_PREFIX": "{place}/prefix",
    "PIP_ROOT": "{place}/root",
    "PIP_CONSTRAINT": "{place}/constraint.txt",
    "PIP_REQUIREMENT": "{place}/more.txt",
    "PIP_USER": "1",
    "PIP_DRY_RUN": "1",
    "PIP_NO_BINARY": ":all:",
    "PIP_PLATFORM": "win_amd64",
    "PIP_PYTHON": "/bin/false",
    "PYTHONPATH": "{place}",
    "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error",
    "PYTHONINSPECT": "",
    "PYTHONUSERBASE": "{place}",
}


def test_no_setting_of_the_callers_moves_what_is_installed(bare: Bare, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "constraint.txt").write_text("needed==0.9\n", encoding="utf-8")
    (place / "pip.py").write_text("raise SystemExit('this is not pip')\n", encoding="utf-8")
    configuration = bare.root / "home" / ".config" / "pip" / "pip.conf"
    configuration.parent.mkdir(parents=True)
    text = f"[install]\nuser = true\nconstraint = {place}/constraint.txt\n[global]\n"
    text += f"index-url = {bare.env['PIP_INDEX_URL']}\n"
    configuration.write_text(text, encoding="utf-8")
    del bare.env["PIP_INDEX_URL"]

    status, out, err = bare.run(
        "plan", **{name: value.format(place=place) for name, value in HOSTILE.items()}
    )

    assert status == 0, err
    assert out.startswith("['plan'] ")
    names = ["PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONSAFEPATH"]
    assert out.endswith(f"{names}\n")
    assert sorted(path.name for path in place.iterdir()) == ["constraint.txt", "pip.py"]
    status, _, err = bare.run("plan")
    assert (status, err) == (0, "")


def test_an_environment_that_lost_something_is_made_anew(bare: Bare) -> None:
    assert bare.run()[0] == 0
    (home,) = bare.environments
    packages = next((home / "lib").glob("python3*")) / "site-packages"
    shutil.rmtree(packages / "needed-1.0.dist-info")
    status, _, err = bare.run()
    assert status == 0, err
    assert "making the environment" in err
    assert (packages / "needed-1.0.dist-info").exists()


@pytest.mark.parametrize("content", ["", "nothing-1.dist-info\n", "\0"])
def test_a_mark_alone_makes_no_environment(bare: Bare, content: str) -> None:
    assert bare.run()[0] == 0
    (home,) = bare.environments
    shutil.rmtree(home)
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    (home / "complete").write_text(content, encoding="utf-8")
    status, _, err = bare.run()
    assert status == 0, err
    assert "making the environment" in err


def test_what_the_index_has_not_got_leaves_nothing_and_is_said(bare: Bare) -> None:
    lock = bare.root / "requirements" / "recipe.lock"
    text = lock.read_text(encoding="utf-8")
    lock.write_text(text.replace("needed==1.0", "needed==1.1"), encoding="utf-8")
    status, _, err = bare.run()
    assert status == 8
    assert "next: " in err
    assert bare.environments == []


def test_a_checkout_that_cannot_be_written_is_said(bare: Bare) -> None:
    (bare.root / ".venv").touch()
    status, _, err = bare.run()
    assert status == 8
    assert "next: " in err
    (bare.root / ".venv").unlink()
    (bare.root / "requirements" / "recipe.lock").unlink()
    assert bare.run()[0] == 8


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, 0.1),
        (signal.SIGINT, 0.4),
        (signal.SIGINT, 2.0),
        (signal.SIGTERM, 0.4),
        (signal.SIGHUP, 2.0),
    ],
)
def test_a_signal_while_it_is_made_leaves_no_traceback_and_no_half(
    bare: Bare, number: signal.Signals, moment: float
) -> None:
    process = bare.start()
    time.sleep(moment)
    process.send_signal(number)
    _, err = process.communicate()
    assert "Traceback" not in err, err
    assert process.returncode in (0, 130, -number), err
    if process.returncode == 130:
        assert not [home for home in bare.environments if (home / "complete").exists()]


def test_the_two_lists_of_what_stays_are_one() -> None:
    assert runpy.run_path(str(CHECKOUT / "build.py"))["PYTHON_TEXT"] == callers.PYTHON_TEXT
