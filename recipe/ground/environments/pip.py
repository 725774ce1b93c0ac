# SPDX-License-Identifier: Apache-2.0
"""What pip is told here: how it reaches an index, which is the caller's choice, and no more."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from recipe.ground import run
from recipe.ground.environments.callers import dropped, pip_settings, pip_variables
from recipe.ground.log import say


def environment() -> dict[str, str | None]:
    """Variables for a pip that installs where it is told to, whatever the caller's settings are."""
    gone: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PIP_")}
    return {**gone, **settings(), "PIP_CONFIG_FILE": os.devnull}


@cache
def settings() -> dict[str, str]:
    # What pip is told of other things may keep it from listing what it is told.
    gone: dict[str, str | None] = dict.fromkeys(n for n in dropped(os.environ) if n[:4] == "PIP_")
    command = [sys.executable, "-m", "pip", "config", "list"]
    try:
        listing = run.output(command, cwd=Path(sys.prefix), env=gone).decode(errors="replace")
    except run.CommandFailed as error:
        say(f"  pip's configuration files can't be read here: {error.what}")
        listing = pip_variables(os.environ)
    return pip_settings(listing, ast.literal_eval)


def lacking(packages: Path, wanted: Iterable[str]) -> list[str]:
    """Which of the requirements a folder of packages doesn't meet, with what it has."""
    found = {
        canonicalize_name(one.name): one.version
        for one in Distribution.discover(path=[str(packages)])
    }
    problems = []
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = found.get(canonicalize_name(requirement.name))
        if version is None:
            problems.append(f"{text} isn't there")
        elif not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{text} isn't met by {version}")
    return problems
