# SPDX-License-Identifier: Apache-2.0
"""Every pinned release: the series resolves and applies there, and the pins are the tree's own."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from packaging.specifiers import SpecifierSet

from recipe.bases import pins
from recipe.bases.releases import Bases, load_bases
from recipe.bases.sources import from_sdist, store_of
from recipe.ground.project import Project
from recipe.series.topics import State, read_series
from tests.recipe.world import CHECKOUT, Checkout

TAGS = [base.tag for base in load_bases(CHECKOUT / "bases.toml").releases]


@pytest.mark.parametrize("tag", TAGS)
def test_every_topic_has_exactly_one_state(real: Checkout, tag: str) -> None:
    patches = read_series(Project(root=real.root, cache=real.cache))

    plan = real.good("plan", "--base", tag, "--native", "none", "--json").document

    assert plan["base"] == tag
    names = [row["topic"] for row in plan["topics"]]
    assert names == list(dict.fromkeys(patch.topic for patch in patches))
    assert {row["state"] for row in plan["topics"]} <= set(State)
    applying = [row["patch"] for row in plan["topics"] if row["state"] == State.APPLIES]
    assert sorted(row["path"] for row in plan["patches"]) == sorted(applying)
    assert all(re.fullmatch(r"[0-9a-f]{40}", row["commit"]) for row in plan["patches"])
    assert {verdict["verdict"] for verdict in plan["devices"].values()} <= {"native", "same-major"}


@pytest.mark.parametrize("tag", TAGS)
def test_the_pins_are_what_the_tree_says(real: Checkout, bases: Bases, tag: str) -> None:
    project = Project(root=real.root, cache=real.cache)
    base = bases.find(tag)
    commit = from_sdist(project, base, offline=False).commit
    store = store_of(project)

    def read(path: str) -> str:
        return store.read(commit, path).decode()

    listing = store.text("ls-tree", "--name-only", commit, "--", "cmake/external_projects/")
    # Commit and tree of a tag are what the source itself proves; the release says its tag alone.
    said = tuple(replace(pin, commit=None, tree=None) for pin in base.inner)
    assert pins.inner_pins(read, ["CMakeLists.txt", *listing.splitlines()]) == said
    assert pins.commit(read) == base.commit
    assert pins.torch_version(read) == base.torch
    assert pins.cuda_version(read) == base.cuda
    assert SpecifierSet(pins.python_range(read)) == base.python
