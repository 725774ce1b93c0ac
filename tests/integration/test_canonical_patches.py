# SPDX-License-Identifier: Apache-2.0
"""Every patch file is, byte for byte, what git writes of its commit on the first base it is for."""

from __future__ import annotations

import pytest

from recipe.config import load_bases, open_project
from recipe.plan import resolve_series
from recipe.series import read_series
from recipe.sources import store_of, vllm_source
from recipe.tree import apply_all

PATCHES = [patch.path for patch in read_series(open_project())]


@pytest.mark.parametrize("path", PATCHES)
def test_writing_the_patch_again_changes_no_byte(path: str) -> None:
    project = open_project()
    bases = load_bases(project.bases_file)
    patch = next(patch for patch in read_series(project) if patch.path == path)
    base = next(base for base in bases.releases if patch.bases.contains(base.version))
    series = resolve_series(project, bases, base)
    source = vllm_source(project, base, source="sdist", offline=False)
    store = store_of(project)
    applied = apply_all(store, source.commit, series.patches, ())
    again = store.format_patch(dict(applied.commits)[path])
    assert again.decode() == patch.content.decode()
