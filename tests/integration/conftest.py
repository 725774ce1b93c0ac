# SPDX-License-Identifier: Apache-2.0
"""The real project with the user's cache, or with a cache of its own that may be damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from recipe.config import Bases, load_bases, open_project
from tests.recipe.world import CHECKOUT, Checkout


@pytest.fixture(scope="session")
def bases() -> Bases:
    return load_bases(CHECKOUT / "bases.toml")


@pytest.fixture(scope="session")
def real() -> Checkout:
    """This checkout with the cache in use: what is fetched is kept for the next time."""
    return Checkout(root=CHECKOUT, cache=open_project().cache)


@pytest.fixture
def private(real: Checkout, tmp_path: Path) -> Checkout:
    """This checkout with a new cache that holds the downloads and nothing else."""
    cache = tmp_path / "cache"
    for path in (real.cache / "downloads").glob("*/*"):
        if path.suffix in (".whl", ".gz"):
            target = cache / "downloads" / path.parent.name / path.name
            target.parent.mkdir(parents=True)
            link_or_copy(path, target)
    for path in (real.cache / "audit").glob("*.json"):
        (cache / "audit").mkdir(exist_ok=True)
        shutil.copy(path, cache / "audit")
    return Checkout(root=CHECKOUT, cache=cache)


def link_or_copy(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another disk
        shutil.copy(path, target)
