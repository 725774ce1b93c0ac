# SPDX-License-Identifier: Apache-2.0
"""What `matrix` says of a topic on each release, and what it remembers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.recipe.next_release import LINES, add_release, edited
from tests.recipe.world import World

OURS = edited(LINES, b"line 20\n", b"our line 20\n")
TAKEN = edited(LINES, b"line 20\n", b"our line number 20\n")


def cells(world: World) -> dict[tuple[str, str], dict[str, Any]]:
    found = world.good("matrix", "--json").document
    assert found["schema"] == 1
    return {(cell["topic"], cell["base"]): cell for cell in found["cells"]}


def states(world: World, topic: str = "topic") -> list[str]:
    return [cell["state"] for (name, _), cell in cells(world).items() if name == topic]


def test_every_topic_has_a_cell_on_every_release(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    two = world.upstream.patch(
        {"vllm/envs.py": b"x\n"}, Topic="second", Bases="<9.2", Not_Needed=">=9.2"
    )
    world.add_patch("two.patch", two)
    add_release(world, "9.2.0", {"vllm/model.py": b"new\n" + LINES})

    found = cells(world)

    assert list(found) == [
        ("topic", "v9.1.0"),
        ("second", "v9.1.0"),
        ("topic", "v9.2.0"),
        ("second", "v9.2.0"),
    ]
    assert {cell["state"] for cell in found.values()} == {"applies", "not-needed"}
    assert found["topic", "v9.2.0"]["patch"] == "vllm/one.patch"
    assert found["topic", "v9.2.0"]["evidence"] == ["vllm/model.py:18 (+1 lines)"]
    assert found["second", "v9.2.0"]["patch"] is None


def test_a_conflict_is_where_upstream_changed_the_lines(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    theirs = b"new\n" + edited(LINES, b"line 20\n", b"their line 20\n")
    add_release(world, "9.2.0", {"vllm/model.py": theirs})
    add_release(world, "9.3.0", {"vllm/model.py": theirs})

    done = world.good("matrix")

    assert "topic: applies on v9.1.0; conflicts since v9.2.0: vllm/model.py:21" in done.out
    assert "rebase --onto v9.2.0" in done.out
    assert states(world) == ["applies", "conflict", "conflict"]


def test_a_release_that_the_patch_can_be_merged_into_needs_a_rebase(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0", {"vllm/model.py": edited(LINES, b"line 22\n", b"their 22\n")})

    cell = cells(world)["topic", "v9.2.0"]

    assert cell["state"] == "needs-rebase"
    assert cell["evidence"][0] == "merged, from v9.1.0"


def test_a_topic_that_no_header_resolves_needs_a_rebase(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}, Bases="<9.2"))
    add_release(world, "9.2.0", {})

    cell = cells(world)["topic", "v9.2.0"]

    assert cell["state"] == "needs-rebase"
    assert cell["evidence"][:2] == ["no header says what it is on v9.2.0", "unchanged, from v9.1.0"]


def test_a_patch_on_top_of_one_that_fails_is_judged_on_what_it_would_be(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    more = edited(OURS, b"our line 20\n", b"our line 20\nmore\n")
    world.add_patch("two.patch", world.upstream.patch({"vllm/model.py": more}, Topic="second"))
    add_release(world, "9.2.0", {"vllm/model.py": edited(LINES, b"line 23\n", b"their 23\n")})

    assert states(world, "topic") == ["applies", "needs-rebase"]
    # Without the first one's merge its line isn't there, which would be a conflict.
    assert states(world, "second") == ["applies", "needs-rebase"]


def test_it_remembers_that_upstream_changed_what_it_took(world: World) -> None:
    content = world.upstream.patch({"vllm/model.py": OURS}, Bases="<9.2", Applied_Upstream="9.2.0")
    world.add_patch("one.patch", content)
    add_release(world, "9.2.0", {"vllm/model.py": TAKEN})
    add_release(world, "9.3.0", {"vllm/model.py": b"new\n" + TAKEN})
    add_release(world, "9.4.0", {"vllm/model.py": LINES})

    done = world.good("matrix")

    story = "topic: applies on v9.1.0; upstreamed in v9.2.0 (changed again in v9.4.0)"
    assert story in done.out
    found = cells(world)
    assert found["topic", "v9.3.0"]["state"] == "upstreamed"
    assert "vllm/model.py:20 our line number 20" in found["topic", "v9.3.0"]["evidence"]
    assert found["topic", "v9.4.0"]["state"] == "upstreamed-changed"
    assert "vllm/model.py:20 our line number 20 is gone" in found["topic", "v9.4.0"]["evidence"]


def test_upstreams_lines_are_found_in_a_file_of_another_name(world: World) -> None:
    content = world.upstream.patch({"vllm/model.py": OURS}, Bases="<9.2", Applied_Upstream="9.2.0")
    world.add_patch("one.patch", content)
    add_release(world, "9.2.0", {"vllm/model.py": TAKEN})
    add_release(world, "9.3.0", {"vllm/model.py": None, "vllm/models/model.py": TAKEN})
    add_release(world, "9.4.0", {"vllm/model.py": None, "vllm/other.py": TAKEN})
    add_release(world, "9.5.0", {"vllm/model.py": None})

    assert states(world) == ["applies", *["upstreamed"] * 3, "upstreamed-changed"]


def test_a_stored_matrix_is_used_until_a_patch_changes(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    first = world.good("matrix")
    assert "judging" in first.err

    second = world.good("matrix", "--offline")

    assert "judging" not in second.err
    assert second.out == first.out
    patch = world.root / "patches" / "vllm" / "one.patch"
    patch.write_bytes(patch.read_bytes().replace(b"+our line 20\n", b"+our line xx\n"))
    assert "judging" in world.good("matrix").err


def test_a_stored_matrix_is_not_that_of_another_recipe(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    world.good("matrix")
    with (world.root / "recipe" / "objects" / "threeway.py").open("a", encoding="utf-8") as code:
        code.write("# judged differently\n")

    assert "judging" in world.good("matrix").err


@pytest.mark.parametrize("damage", [b"", b'{"bases": []}', b'{"bases": 1, "cells": [{}]}'])
def test_a_damaged_stored_matrix_is_computed_anew(world: World, damage: bytes) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    first = world.good("matrix")
    (stored,) = (world.cache / "matrix").glob("*.json")
    stored.write_bytes(damage)

    assert world.good("matrix").out == first.out
    assert stored.read_bytes() != damage


def test_a_stored_matrix_with_another_state_is_not_shown(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    good = world.good("matrix", "--json").document
    (path,) = (world.cache / "matrix").glob("*.json")
    text = path.read_text(encoding="utf-8")
    assert text.count('"applies"') == 1
    path.write_text(text.replace('"applies"', '"upstreamed"'), encoding="utf-8")
    assert world.good("matrix", "--json").document == good
    assert path.read_text(encoding="utf-8") == text
