# SPDX-License-Identifier: Apache-2.0
"""A kept environment is good for what is in it, and not for its mark."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from recipe.ground.environments import callers, pip
from recipe.ground.environments import made as environment
from recipe.ground.errors import MachineError
from recipe.ground.project import Project
from tests.recipe.packages import pure_wheel

MADE = {"torch": "2.11.0", "python": "3.11", "requirements": ["smalldep>=1"]}


@dataclass(kw_only=True)
class Shelf:
    """An environment in a cache, and how often it was made."""

    project: Project
    torch: str = "2.11.0+cpu"
    made: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.project.cache / "envs" / "key"

    @property
    def packages(self) -> Path:
        return self.folder / "lib" / "python3.11" / "site-packages"

    def make(self, folder: Path) -> None:
        self.made.append(folder)
        for name, version in (("torch", self.torch), ("smalldep", "1.0")):
            content = pure_wheel(name, version, {f"{name}/__init__.py": b"there = 1\n"})
            with zipfile.ZipFile(io.BytesIO(content)) as wheel:
                wheel.extractall(self.packages)

    def get(self) -> Path:
        return environment.kept(
            self.project, "key", self.make, MADE, offline=False, room=0, purpose=environment.TESTS
        )


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "cache").mkdir()
    return Shelf(project=Project(root=tmp_path, cache=tmp_path / "cache"))


def emptied(shelf: Shelf) -> None:
    ready = (shelf.folder / "ready.json").read_bytes()
    shutil.rmtree(shelf.folder)
    shelf.folder.mkdir()
    (shelf.folder / "ready.json").write_bytes(ready)


def changed_mark(shelf: Shelf) -> None:
    path = shelf.folder / "ready.json"
    path.write_text(path.read_text(encoding="utf-8").replace("2.11.0", "2.12.0"), encoding="utf-8")


DAMAGE: dict[str, Callable[[Shelf], object]] = {
    "a file is gone": lambda s: (s.packages / "torch" / "__init__.py").unlink(),
    "a file is cut off": lambda s: os.truncate(s.packages / "torch" / "__init__.py", 3),
    "a file is there besides": lambda s: (s.packages / "sitecustomize.py").touch(),
    "only the mark is left": emptied,
    "the mark says something else": changed_mark,
    "the mark is cut off": lambda s: os.truncate(s.folder / "ready.json", 20),
    "the mark is empty": lambda s: os.truncate(s.folder / "ready.json", 0),
    "the mark is no mark": lambda s: (s.folder / "ready.json").write_text("[]"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_environment_is_made_anew(shelf: Shelf, what: str) -> None:
    assert shelf.get() == shelf.folder
    assert shelf.get() == shelf.folder
    assert len(shelf.made) == 1
    DAMAGE[what](shelf)
    shelf.get()
    assert len(shelf.made) == 2
    shelf.get()
    assert len(shelf.made) == 2


def test_compiled_modules_are_no_damage(shelf: Shelf) -> None:
    shelf.get()
    (shelf.packages / "torch" / "__pycache__").mkdir()
    (shelf.packages / "torch" / "__pycache__" / "x.pyc").write_bytes(b"code")
    shelf.get()
    assert len(shelf.made) == 1


def test_one_of_before_is_taken_over_if_it_has_its_torch(shelf: Shelf) -> None:
    shelf.make(shelf.folder)
    (shelf.folder / "ready.json").write_text(json.dumps(MADE), encoding="utf-8")
    shelf.get()
    assert len(shelf.made) == 1
    assert environment.made_of(shelf.folder)["torch"] == "2.11.0"
    shutil.rmtree(shelf.packages / "torch-2.11.0+cpu.dist-info")
    (shelf.folder / "ready.json").write_text(json.dumps(MADE), encoding="utf-8")
    assert environment.made_of(shelf.folder) == {}
    shelf.get()
    assert len(shelf.made) == 2


def test_what_pip_put_elsewhere_is_missed(shelf: Shelf) -> None:
    shelf.make(shelf.folder)
    wanted = ["torch==2.11.0", "smalldep>=1", "windows-only==1 ; sys_platform == 'win32'"]
    environment.check_holds(shelf.folder, wanted, environment.TESTS)
    for bad in ("torch==2.12.0", "smalldep>=2", "gone"):
        with pytest.raises(MachineError, match="isn't what was installed"):
            environment.check_holds(shelf.folder, [bad], environment.TESTS)
    assert pip.lacking(shelf.packages, ["gone", "smalldep>=2"]) == [
        "gone isn't there",
        "smalldep>=2 isn't met by 1.0",
    ]


def test_pip_is_told_how_to_reach_an_index_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    configuration = tmp_path / "pip.conf"
    text = "[global]\nextra-index-url =\n  http://a/simple\n  http://b/simple\n"
    text += "[install]\nuser = true\ntarget = /nowhere\nconstraint = /nowhere\n"
    configuration.write_text(text, encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:pw@host/simple")
    for name in ("PIP_TARGET", "PIP_CONSTRAINT", "PIP_PREFIX", "PIP_PYTHON", "PIP_REQUIREMENT"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("PIP_USER", "1")
    pip.settings.cache_clear()
    try:
        told = {name: value for name, value in pip.environment().items() if value is not None}
    finally:
        pip.settings.cache_clear()
    wanted = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "http://a/simple http://b/simple",
        "PIP_INDEX_URL": "http://me:pw@host/simple",
    }
    assert told == told | wanted
    # This machine's own settings may stand beside them; "/nowhere" is in none of those that stay.
    assert "/nowhere" not in told.values()
    assert {callers.pip_option(name) for name in told} <= {*callers.REACH, "config-file"}
