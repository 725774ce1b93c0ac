# SPDX-License-Identifier: Apache-2.0
"""The README says what the code does: its tables are held against the series and the knobs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipe.bases.releases import load_bases
from recipe.ground.project import open_project
from recipe.series.lint import lint
from recipe.series.topics import State, check, resolve

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_topic_table_is_the_series() -> None:
    project = open_project()
    bases = load_bases(project.bases_file)
    patches = check(project, bases)
    applies: dict[str, list[str]] = {}
    for base in bases.releases:
        for topic in resolve(patches, base):
            if topic.state == State.APPLIES:
                release = ".".join(str(part) for part in base.version.release[:2])
                applies.setdefault(topic.name, []).append(release)
    every = [".".join(str(part) for part in b.version.release[:2]) for b in bases.releases]
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+?) \|", README, re.MULTILINE))
    expected = {
        topic: "all" if on == every else f"{on[0]} – {on[-1]}" for topic, on in applies.items()
    }
    assert {name: rows[name] for name in expected} == expected
    assert len(bases.releases) == 19 and "nineteen pinned releases" in README


def test_the_figures_are_those_of_lint() -> None:
    project = open_project()
    rows = {row.base: row for row in lint(project, load_bases(project.bases_file))}
    newest, old = rows["v0.33.0"], rows["v0.20.2"]
    assert f"adds {newest.added} lines to upstream's files and removes {newest.removed}" in README
    assert f"on v0.20.2 {old.added} and {old.removed} (`lint --stats`)" in README


def test_every_knob_is_in_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "overlay" / "vllm")
    from vllm.sm12x import envs

    assert envs.describe() in README
