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
from recipe.ground.callers import pip_settings
from recipe.ground.log import say


def environment() -> dict[str, str | None]:
    """Variables for a pip that installs where it is told to, whatever the caller's settings are."""
    gone: dict[str, str | None] = {name: None for name in os.environ if name.startswith("PIP_")}
    return {**gone, **settings(), "PIP_CONFIG_FILE": os.devnull}


@cache
def settings() -> dict[str, str]:
    try:
        listing = run.output([sys.executable, "-m", "pip", "config", "list"], cwd=Path(sys.prefix))
    except run.CommandFailed as error:
        say(f"  pip's configuration can't be read here, so it is left out: {error.what}")
        return pip_settings(from_variables(), ast.literal_eval)
    return pip_settings(listing.decode(errors="replace"), ast.literal_eval)


def from_variables() -> str:
    """The variables alone, in the form in which pip lists its settings."""
    named = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return "".join(
        f":env:.{name.removeprefix('PIP_').lower().replace('_', '-')}={value!r}\n"
        for name, value in named.items()
    )


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
