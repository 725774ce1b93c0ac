# SPDX-License-Identifier: Apache-2.0
"""A rebase that is under way, as it stands on the disk: what is decided, and where it stopped.

The folder .rebase/ of the checkout holds it. Nothing of the series is written before the end, so a
rebase that is killed goes on from its last decision, and giving it up is removing the folder.
"""

from __future__ import annotations

import errno
import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from recipe.ground.errors import ConfigError, MachineError
from recipe.ground.project import Project
from recipe.ground.scratch import write_whole

SCHEMA = 1


class Decision(StrEnum):
    """Who decided what became of a patch."""

    HEADER = "header"  # its header had said so before
    MACHINE = "machine"
    ACCEPTED = "accepted"  # a merge that a person looked at
    HAND = "hand"
    REMEMBERED = "remembered"  # resolved by hand in an earlier rebase that was rolled back


class StopKind(StrEnum):
    CONFLICT = "conflict"
    REVIEW = "review"


@dataclass(frozen=True, kw_only=True)
class Step:
    """What became of one topic. outcome: a `follow.Outcome`, or a `series.State` of the header.

    commit: the stack with the patch on it; "" where no patch applies. memory: the name that a
    person's resolution is remembered by.
    """

    topic: str
    patch: str
    outcome: str
    decision: Decision
    commit: str = ""
    memory: str = ""
    hunks: int = 0
    taken: int = 0
    conflicts: int = 0
    renames: tuple[tuple[str, str], ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Where a person is needed.

    before, after: the change; stack: what it goes on; tree: the merge, maybe with markers. memory:
    the name that the resolution will be remembered by. paths: the files in conflict.
    """

    topic: str
    patch: str
    kind: StopKind
    outcome: str
    before: str
    after: str
    stack: str
    tree: str
    memory: str
    hunks: int
    taken: int
    conflicts: int
    paths: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class State:
    """One rebase. inputs: a hash of series and patches as they were when it began. history: whether
    it was begun with the commits between the releases.
    """

    onto: str
    origin: str
    upstream: str
    source: str
    command: str | None
    accept: tuple[str, ...]
    inputs: str
    steps: tuple[Step, ...] = ()
    stop: Stop | None = None
    finishing: bool = False
    history: bool = False


def folder(project: Project) -> Path:
    return project.root / ".rebase"


def work_tree(project: Project) -> Path:
    return folder(project) / "tree"


def save(project: Project, state: State) -> None:
    text = json.dumps({"schema": SCHEMA, **asdict(state)}, indent=1)
    try:
        write_whole(folder(project) / "state.json", text.encode())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise  # said in one place for all
        raise MachineError(
            f"{folder(project)} can't be written: {error.strerror}",
            means="A rebase keeps there what it has decided. Nothing of the series was written.",
            next=f"ls -ld {folder(project)}   # make the checkout writable, or mv what is there",
        ) from None


def load(project: Project) -> State | None:
    """The rebase under way, if there is one."""
    path = folder(project) / "state.json"
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        raise unreadable(path) from None
    if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
        raise unreadable(path)
    try:
        steps = tuple(Step(**tuples(row)) for row in data.pop("steps"))
        stop = data.pop("stop")
        found = None if stop is None else Stop(**tuples(stop))
        data["accept"] = tuple(data["accept"])
        return State(**data, steps=steps, stop=found)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise unreadable(path) from None


def tuples(row: dict[str, Any]) -> dict[str, Any]:
    """A JSON object's lists as the tuples that the dataclasses have."""
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    plain["renames"] = tuple((old, new) for old, new in row["renames"])
    if "decision" in plain:
        plain["decision"] = Decision(plain["decision"])
    if "kind" in plain:
        plain["kind"] = StopKind(plain["kind"])
    return plain


def discard(project: Project) -> None:
    """Forget the rebase: state first, so that a kill in the middle leaves no half of it."""
    with suppress(NotADirectoryError):
        (folder(project) / "state.json").unlink(missing_ok=True)
    shutil.rmtree(folder(project), ignore_errors=True)


def unreadable(path: Path) -> ConfigError:
    return ConfigError(
        f"{path} can't be read: it is damaged, or another version of the recipe wrote it",
        means="A rebase writes the series at its end only, so patches/ is as it was.",
        next="python build.py rebase --abort, then start it again",
    )
