# SPDX-License-Identifier: Apache-2.0
"""`lint` finds what is due and what another git would write differently, and counts lines."""

from __future__ import annotations

import json

import pytest

from recipe.bases.releases import load_bases
from recipe.ground.project import open_project
from recipe.objects.hunks import count_lines
from recipe.series.lint import check_form, lint
from recipe.series.topics import read_series
from tests.recipe.repo import read
from tests.recipe.world import World


def test_the_committed_series_is_in_order() -> None:
    project = open_project()
    rows = lint(project, load_bases(project.bases_file))
    assert len(rows) == 19
    assert all(row.patches and row.added for row in rows)


def test_our_own_patches_name_the_project_as_their_author() -> None:
    """git takes the committer's own name and clock otherwise, and a patch shows both."""
    wanted = [
        b"From: vllm-sm12x maintainers <maintainers@vllm-sm12x.example>",
        b"Date: Sun, 22 Nov 2026 00:00:00 +0000",
    ]
    patches = read_series(open_project())
    ours = [patch for patch in patches if b"\nOrigin: vendor\n" in patch.content]
    assert ours
    for patch in ours:
        assert patch.content.splitlines()[1:3] == wanted, patch.path


def test_lines_are_counted_per_base(world: World) -> None:
    world.add_patch("change.patch", world.upstream.patch({"vllm/model.py": b"--- a/x\n+++ b/x\n"}))
    done = world.good("lint", "--json")
    (row,) = json.loads(done.out)["touched"]
    assert (row["patches"], row["files"], row["added"]) == (1, 1, 2)
    assert row["removed"] > 0


def test_lines_that_look_like_headers_are_counted_as_lines() -> None:
    patch = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n--- a/y\n+++ b/y\n same\n"
    assert count_lines(patch) == (1, 1)


def test_a_condition_that_holds_for_every_base_is_due(world: World) -> None:
    patch = world.upstream.patch({"vllm/model.py": b"ours\n"}, Drop_When="upstream >= 9.0")
    world.add_patch("change.patch", patch)

    done = world.run("lint")

    assert done.status == 2
    assert "patches/vllm/change.patch is due" in done.err
    assert "git rm patches/vllm/change.patch" in done.next


def test_a_condition_of_another_form_is_refused(world: World) -> None:
    patch = world.upstream.patch({"vllm/model.py": b"ours\n"}, Drop_When="some day")
    world.add_patch("change.patch", patch)
    done = world.run("lint")
    assert done.status == 2
    assert "Drop-When" in done.err


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"From 0000000", b"From 1234567", "--zero-commit"),
        (b"\ndiff --git", b"\n 1 file changed, 1 insertion(+)\n\ndiff --git", "--no-stat"),
    ],
)
def test_a_patch_in_another_form_is_refused(world: World, old: bytes, new: bytes, why: str) -> None:
    patch = world.upstream.patch({"vllm/model.py": b"ours\n"})
    head, blank, rest = patch.partition(b"\n---\n")
    assert old in patch, head
    world.add_patch("change.patch", (head + blank + rest).replace(old, new, 1))

    done = world.run("lint")

    assert done.status == 2
    assert why in done.err or "trailer" in done.err


def test_short_blob_ids_and_a_signature_are_refused(world: World) -> None:
    patch = world.upstream.patch({"vllm/model.py": b"ours\n"})
    lines = patch.split(b"\n")
    short = [b"index 1234567..89abcde 100644" if x.startswith(b"index ") else x for x in lines]
    world.add_patch("change.patch", b"\n".join(short))
    assert "--full-index" in world.run("lint").err
    path = world.root / "patches" / "vllm" / "change.patch"
    path.write_bytes(patch + b"-- \n2.39.5\n\n")
    assert "--no-signature" in world.run("lint").err
    path.write_bytes(patch)
    world.good("lint")


def test_lines_of_a_hunk_or_of_the_message_that_look_like_another_form_are_no_fault(
    world: World,
) -> None:
    looks = b"- \n 3 files changed\n3 files changed\nindex 1234567..89abcde\n"
    world.upstream.commit({"vllm/model.py": looks})
    subject = "Change it\n\nindex 1234567..89abcde 100644"
    patch = world.upstream.patch({"vllm/model.py": looks.replace(b"- \n", b"")}, subject)
    assert b"\n-- \n" in patch
    check_form(read(world.root, patch))
