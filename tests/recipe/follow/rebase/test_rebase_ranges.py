# SPDX-License-Identifier: Apache-2.0
"""The ranges that a rebase writes: every other pinned release stays as it was."""

from __future__ import annotations

import pytest

from tests.recipe.next_release import LINES, add_release, edited, files_of, rebase, trailer
from tests.recipe.world import World

OURS = edited(LINES, b"line 20\n", b"our line 20\n")
NEAR = edited(LINES, b"line 22\n", b"their line 22\n")
TOOK = edited(OURS, b"line 18\n", b"their line 18\n")


def states(world: World) -> list[str]:
    """The only topic's state on each release, by the matrix; and all of it must be in order."""
    world.good("lint")
    found = world.good("matrix", "--json").document
    return [cell["state"] for cell in found["cells"] if cell["topic"] == "topic"]


def clean(world: World, *args: str) -> None:
    done = rebase(world, *args)
    assert done.status == 0, done.err
    world.good("refresh", "--check")


def test_a_later_release_keeps_the_text_that_applies_there(world: World) -> None:
    """The release between two others has its neighbouring lines otherwise."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0", {"vllm/model.py": NEAR})
    add_release(world, "9.3.0", {})

    clean(world, "--onto", "v9.2.0")

    assert trailer(world, "one.patch", "Bases") == ">=9,!=9.2"
    assert trailer(world, "topic-9.2.patch", "Bases") == "==9.2"
    assert states(world) == ["applies"] * 3


def test_a_later_release_that_lost_it_again_keeps_the_patch(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0", {"vllm/model.py": TOOK})
    add_release(world, "9.3.0", {})

    clean(world, "--onto", "v9.2.0")

    assert trailer(world, "one.patch", "Not-Needed") == "==9.2"
    assert states(world) == ["applies", "not-needed", "applies"]


def test_a_later_release_that_a_header_settles_stays_settled(world: World) -> None:
    content = world.upstream.patch({"vllm/model.py": OURS}, Bases="<9.2", Not_Needed=">=9.3")
    world.add_patch("one.patch", content)
    add_release(world, "9.2.0", {"vllm/model.py": TOOK})
    add_release(world, "9.3.0", {"vllm/model.py": None})

    clean(world, "--onto", "v9.2.0")

    assert states(world) == ["applies", "not-needed", "not-needed"]


def test_leaving_it_out_adds_to_what_isnt_needed_already(world: World) -> None:
    content = world.upstream.patch({"vllm/model.py": OURS}, Bases="<9.3", Not_Needed=">=9.3")
    world.add_patch("one.patch", content)
    theirs = edited(LINES, b"line 20\n", b"their line 20\n")
    add_release(world, "9.2.0", {"vllm/model.py": theirs})
    add_release(world, "9.3.0", {"vllm/model.py": None})
    assert rebase(world, "--onto", "v9.2.0").status == 4

    clean(world, "--skip")

    assert trailer(world, "one.patch", "Not-Needed") == ">=9.2"
    assert states(world) == ["applies", "not-needed", "not-needed"]


def test_a_release_between_that_doesnt_need_it_is_left_out(world: World) -> None:
    content = world.upstream.patch({"vllm/model.py": OURS}, Bases="<9.2", Not_Needed="==9.2")
    world.add_patch("one.patch", content)
    add_release(world, "9.2.0", {"vllm/model.py": None})
    add_release(world, "9.3.0", {})

    clean(world, "--onto", "v9.3.0")

    assert trailer(world, "one.patch", "Bases") == "!=9.2"
    assert states(world) == ["applies", "not-needed", "applies"]


def test_a_range_without_any_end_left(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}, Bases="<9.2"))
    add_release(world, "9.2.0", {})

    clean(world, "--onto", "v9.2.0")

    assert trailer(world, "one.patch", "Bases") == ">=0"
    assert states(world) == ["applies", "applies"]


@pytest.mark.parametrize("newest_first", [False, True])
def test_an_older_release_is_begun_from_the_next_newer_file(
    world: World, newest_first: bool
) -> None:
    """Onto 9.1, which no file is for: that of 9.2, not that of 9.3, whatever their order."""
    add_release(world, "9.2.0", {"vllm/model.py": NEAR})
    other = edited(NEAR, b"line 18\n", b"their line 18\n")
    add_release(world, "9.3.0", {"vllm/model.py": other})
    made = {}
    for name, text, bases in (("two", NEAR, ">=9.2,<9.3"), ("three", other, ">=9.3")):
        world.upstream.commit({"vllm/model.py": text}, "upstream")
        ours = edited(text, b"line 20\n", b"our line 20\n")
        made[name] = world.upstream.patch({"vllm/model.py": ours}, Bases=bases)
    for name in sorted(made, reverse=not newest_first):
        world.add_patch(f"{name}.patch", made[name])
    before = files_of(world)

    clean(world, "--onto", "v9.1.0", "--from", "v9.2.0")

    after = files_of(world)
    assert after["patches/vllm/three.patch"] == before["patches/vllm/three.patch"]
    assert after["patches/vllm/two.patch"] == before["patches/vllm/two.patch"]
    assert trailer(world, "topic-9.1.patch", "Bases") == "==9.1"
    assert states(world) == ["applies"] * 3


def test_a_name_that_is_taken_isnt_written_over(world: World) -> None:
    world.add_patch("topic-9.2.patch", world.upstream.patch({"vllm/model.py": OURS}))
    before = files_of(world)["patches/vllm/topic-9.2.patch"]
    add_release(world, "9.2.0", {"vllm/model.py": NEAR})

    clean(world, "--onto", "v9.2.0")

    old = files_of(world)["patches/vllm/topic-9.2.patch"]
    assert old == before.replace(b"Bases: >=9\n", b"Bases: >=9,<9.2\n")
    assert trailer(world, "topic-9.2-2.patch", "Bases") == ">=9.2"
    assert states(world) == ["applies", "applies"]


def test_a_post_release(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0.post1", {"vllm/model.py": TOOK})

    clean(world, "--onto", "v9.2.0.post1")

    assert trailer(world, "one.patch", "Drop-When") == "upstream >= 9.2.post1"
    assert states(world) == ["applies", "upstreamed"]


def test_a_patch_after_one_that_is_written_anew_follows_in_form(world: World) -> None:
    """Both are of one file, and the second is for the new release only: its blob ids change."""
    add_release(world, "9.2.0", {"vllm/model.py": NEAR})
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    world.upstream.commit({"vllm/model.py": NEAR}, "upstream")
    ours = edited(NEAR, b"line 36\n", b"our line 36\n")
    content = world.upstream.patch(
        {"vllm/model.py": ours}, Topic="second", Bases=">=9.2", Not_Needed="<9.2"
    )
    world.add_patch("two.patch", content)

    clean(world, "--onto", "v9.2.0")

    written = files_of(world)["patches/vllm/two.patch"]
    assert written != content
    assert states(world) == ["applies", "applies"]


def test_an_upstream_without_patches(world: World) -> None:
    add_release(world, "9.2.0", {})

    done = rebase(world, "--onto", "v9.2.0", "--upstream", "deepgemm")

    assert done.status == 2
    assert "no patch for deepgemm" in done.err
