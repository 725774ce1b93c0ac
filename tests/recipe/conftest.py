# SPDX-License-Identifier: Apache-2.0
"""What several test modules share: a store, a small release's repository, an index, a world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recipe.objects.git import Store, open_store
from tests.recipe import small
from tests.recipe.inners import Inner, make_inner
from tests.recipe.repo import Repository, new_repository
from tests.recipe.scripted import Scripted, restored, with_environment
from tests.recipe.server import Index, serve
from tests.recipe.world import World, copy_recipe, make_world


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store.git")


@pytest.fixture
def upstream(tmp_path: Path) -> Repository:
    """The small release as a git repository with a work tree."""
    return new_repository(tmp_path / "upstream", small.TREE)


@pytest.fixture
def index() -> Iterator[Index]:
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe's code, to be copied into each small project."""
    root = tmp_path_factory.mktemp("code") / "project"
    copy_recipe(root)
    return root


@pytest.fixture
def world(tmp_path: Path, index: Index, code: Path) -> World:
    return make_world(tmp_path, index, code)


@pytest.fixture
def inner(tmp_path: Path) -> Inner:
    return make_inner(tmp_path)


@pytest.fixture(scope="module")
def scripted_once(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[Scripted]:
    """Made once for a module, with its build environment."""
    with with_environment(tmp_path_factory.mktemp("scripted"), code) as made:
        yield made


@pytest.fixture
def scripted(scripted_once: Scripted) -> Iterator[Scripted]:
    """A release with a component that a script compiles, as it was made."""
    with restored(scripted_once) as made:
        yield made
