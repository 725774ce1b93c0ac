# SPDX-License-Identifier: Apache-2.0
"""Environments that are made once per set of requirements and kept in the cache.

An environment may see another behind it, by a .pth file: so several GB of torch are there once, and
what lies on top stays small.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.ground import proven, run
from recipe.ground.digest import sha256
from recipe.ground.environments import pip
from recipe.ground.environments.pip import lacking
from recipe.ground.errors import MachineError
from recipe.ground.lock import hold
from recipe.ground.log import say
from recipe.ground.project import Project

READY = "ready.json"
FILES = "files"
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
    install = [str(pip_python), "-m", "pip", "install", *QUIET_PIP]

    def make(folder: Path) -> None:
        say(f"  making {purpose.name}: torch {needs.torch}, Python {needs.python} (once)")
        step([interpreter, "-m", "venv", str(folder)], folder.parent, purpose)
        step([*install, f"torch=={needs.torch}"], folder.parent, purpose)
        # Whatever a package asks for, the torch that was chosen stays.
        constraint = folder / "constraint.txt"
        constraint.write_text(f"torch=={needs.torch}\n", encoding="utf-8")
        if needs.requirements:
            wanted = ["--constraint", str(constraint), *needs.requirements]
            step([*install, *wanted], folder.parent, purpose)
        check_holds(folder, [f"torch=={needs.torch}", *needs.requirements], purpose)

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
        if is_whole(folder):
            return folder
        if (folder / READY).exists():
            say(f"  {purpose.name} was damaged or changed; it is made anew ({folder})")
        if offline:
            raise MachineError(
                f"{purpose.name} is not in the cache and --offline was given",
                next=f"run once without --offline, or {purpose.instead}",
            )
        run.check_disk(project.cache, room, purpose.name)
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
        folder.parent.mkdir(parents=True, exist_ok=True)
        make(folder)
        proven.keep(folder / READY, folder.name, {**made, FILES: listing(folder)})
    return folder


def is_whole(folder: Path) -> bool:
    """Whether an environment is what was made, file by file and with its size.

    One that was made before such a list was kept gets it now, if it has the torch it speaks of.
    """
    try:
        made = json.loads((folder / READY).read_bytes())
        if proven.is_proven(made, folder.name):
            return bool(made.get(FILES) == listing(folder))
        if not isinstance(made, dict) or proven.PROOF in made or "torch" not in made:
            return False
        if lacking(site_packages(folder), [f"torch=={made['torch']}"]):
            return False
    except (OSError, ValueError, StopIteration):
        return False
    with suppress(OSError):  # a cache that can't be written may be read all the same
        proven.keep(folder / READY, folder.name, {**made, FILES: listing(folder)})
    return True


def made_of(folder: Path) -> dict[str, Any]:
    """What an environment was made from; nothing where it isn't whole."""
    return dict(json.loads((folder / READY).read_bytes())) if is_whole(folder) else {}


def listing(folder: Path) -> str:
    """A hash over the names and sizes of an environment's files, but for compiled modules."""
    rows = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        where = os.path.relpath(place, folder)
        for name in files:
            if name != READY or where != ".":
                status = Path(place, name).lstat()
                rows.append(f"{where}/{name} {status.st_size}\n")
    return sha256("".join(sorted(rows)).encode("utf-8", "surrogateescape"))


def check_holds(folder: Path, wanted: Sequence[str], purpose: Purpose) -> None:
    """An installation that said it went well must have put there what it was asked for."""
    problems = lacking(site_packages(folder), wanted)
    if problems:
        raise MachineError(
            f"{purpose.name} isn't what was installed: {'; '.join(problems[:5])}",
            means=purpose.without,
            next=f"look at what pip is told here (pip config list), or {purpose.instead}",
        )


def step(command: list[str], cwd: Path, purpose: Purpose) -> None:
    """Run one command of an installation, its output on stderr."""
    status = run.show(command, cwd=cwd, env=pip.environment())
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
