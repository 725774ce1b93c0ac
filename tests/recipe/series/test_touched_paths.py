# SPDX-License-Identifier: Apache-2.0
"""The paths we read out of a patch are those that git itself says the patch changes."""

from __future__ import annotations

from hypothesis import given

from tests.recipe.edits import History, few, histories
from tests.recipe.history import made


@few(25)
@given(history=histories())
def test_they_are_what_git_diff_names_with_both_sides_of_a_rename(history: History) -> None:
    with made(history) as there:
        steps = zip(there.commits, there.commits[1:], there.patches, strict=False)
        for old, new, patch in steps:
            raw = there.repository.git("diff", "--name-only", "--no-renames", "-z", old, new)
            changed = {name.decode() for name in raw.split(b"\0") if name}
            assert set(patch.touched) == changed
            assert len(patch.touched) == len(changed)
