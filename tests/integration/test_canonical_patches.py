# SPDX-License-Identifier: Apache-2.0
"""Every patch file is, byte for byte, what git writes of its commit on the first base it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.ground.project import open_project
from recipe.series.topics import read_series
from tests.recipe.world import Checkout


def test_writing_the_patches_again_changes_no_byte(real: Checkout) -> None:
    document = real.good("refresh", "--check", "--json").document
    assert document["unchanged"] == [patch.path for patch in read_series(open_project())]


@pytest.mark.parametrize("tag", ["v0.20.2", "v0.33.0"])
def test_apply_then_refresh_changes_nothing(real: Checkout, tmp_path: Path, tag: str) -> None:
    real.good("apply", "--base", tag, "--tree", str(tmp_path / "tree"))
    args = ("refresh", "--tree", str(tmp_path / "tree"), "--check", "--json")
    document = real.good(*args).document
    assert document["absent"] == []
    assert document["unchanged"] == [patch.path for patch in read_series(open_project())]
