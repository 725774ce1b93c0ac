# SPDX-License-Identifier: Apache-2.0
"""Environments that are made once per set of requirements and kept in the cache.

An environment may see another behind it, by a .pth file: so several GB of torch are there once, and
what lies on top stays small.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from recipe.ground import run
from recipe.ground.errors import MachineError
from recipe.ground.lock import hold
from recipe.ground.log import say
from recipe.ground.project import Project

READY = "ready.json"
QUIET_PIP = ["--quiet", "--disable-pip-version-check", "--no-input"]
# torch, transformers and what they bring, unpacked, with a CPU build of torch.
ROOM_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an environment with torch is made from; its hash names it in the cache."""

    python: str
    torch: str
    requirements: tuple[str, ...]

    @property
    def key(self) -> str:
        text = json.dumps([self.python, self.torch, *self.requirements])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What an environment is for, in the words of an error: what fails without it, the way out."""

    name: str
    without: str
    instead: str


TESTS = Purpose(
    name="the test environment",
    without="The wheel was not tested, so it was not put in its place.",
    instead="build without tests: --no-test",
)


def dependencies(
    project: Project, interpreter: str, needs: Needs, *, offline: bool, purpose: Purpose = TESTS
) -> Path:
    """The cached environment of these needs; made if it isn't there."""
    pip_python = project.cache / "envs" / needs.key / "bin" / "python"
    pip = [str(pip_python), "-m", "pip", "install", *QUIET_PIP]

    def make(folder: Path) -> None:
        say(f"  making {purpose.name}: torch {needs.torch}, Python {needs.python} (once)")
        step([interpreter, "-m", "venv", str(folder)], folder.parent, purpose)
        step([*pip, f"torch=={needs.torch}"], folder.parent, purpose)
        # Whatever a package asks for, the torch that was chosen stays.
        constraint = folder / "constraint.txt"
        constraint.write_text(f"torch=={needs.torch}\n", encoding="utf-8")
        if needs.requirements:
            wanted = ["--constraint", str(constraint), *needs.requirements]
            step([*pip, *wanted], folder.parent, purpose)

    made = {"torch": needs.torch, "python": needs.python, "requirements": needs.requirements}
    return kept(project, needs.key, make, made, offline=offline, room=ROOM_BYTES, purpose=purpose)


def kept(
    project: Project,
    key: str,
    make: Callable[[Path], None],
    made: Mapping[str, object],
    *,
    offline: bool,
    room: int,
    purpose: Purpose,
) -> Path:
    """The folder of that key in the cache, filled by `make` unless it is there and whole."""
    folder = project.cache / "envs" / key
    with hold(project.cache / "locks" / f"env-{key}.lock", purpose.name):
        if (folder / READY).exists():
            return folder
        if offline:
            raise MachineError(
                f"{purpose.name} is not in the cache and --offline was given",
                next=f"run once without --offline, or {purpose.instead}",
            )
        run.check_disk(project.cache, room, purpose.name)
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        folder.parent.mkdir(parents=True, exist_ok=True)
        make(folder)
        (folder / READY).write_text(json.dumps(dict(made)), encoding="utf-8")
    return folder


def step(command: list[str], cwd: Path, purpose: Purpose) -> None:
    """Run one command of an installation, its output on stderr."""
    status = run.show(command, cwd=cwd, env={})
    if status == 0:
        return
    if run.is_full(cwd):
        raise run.disk_full(cwd, f"{purpose.name} could not be installed")
    raise MachineError(
        f"{purpose.name} could not be installed: {command[0]} ended with {status}",
        means=purpose.without,
        next=f"look at the lines above, or {purpose.instead}",
    )


def site_packages(environment: Path) -> Path:
    """Where an environment's packages lie."""
    return next((environment / "lib").glob("python*")) / "site-packages"


def see_behind(environment: Path, behind: Path) -> None:
    """Let an environment find the packages of another after its own."""
    text = f"{site_packages(behind)}\n"
    (site_packages(environment) / "shelf.pth").write_text(text, encoding="utf-8")
