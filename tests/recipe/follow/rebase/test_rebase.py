# SPDX-License-Identifier: Apache-2.0
"""What becomes of a patch on the next release, and what `rebase` writes of it."""

from __future__ import annotations

from tests.recipe.next_release import (
    LINES,
    add_release,
    edited,
    files_of,
    patched,
    rebase,
    trailer,
)
from tests.recipe.repo import numbered
from tests.recipe.world import World

OURS = edited(LINES, b"line 20\n", b"our line 20\n")


def outcome(world: World, *args: str) -> tuple[str, list[str]]:
    """Rebase onto v9.2.0: what became of the only patch, and the files that were written."""
    done = rebase(world, "--onto", "v9.2.0", *args)
    assert done.status == 0, done.err
    (step,) = done.document["patches"]
    return step["outcome"], done.document["written"]


def test_a_patch_whose_file_is_the_same_is_left_alone(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0", {})
    before = files_of(world)

    assert outcome(world) == ("unchanged", [])
    assert files_of(world) == before
    assert not (world.root / ".rebase").exists()


def test_a_range_that_ends_before_the_release_is_opened(world: World) -> None:
    content = world.upstream.patch({"vllm/model.py": OURS}, Bases=">=9.1,<9.2")
    world.add_patch("one.patch", content)
    add_release(world, "9.2.0", {})

    assert outcome(world) == ("unchanged", ["patches/vllm/one.patch"])
    assert files_of(world)["patches/vllm/one.patch"] == content.replace(
        b"Bases: >=9.1,<9.2\n", b"Bases: >=9.1\n"
    )


def test_a_moved_patch_keeps_its_file(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0", {"vllm/model.py": b"new\n" * 7 + LINES})
    before = files_of(world)

    done = rebase(world, "--onto", "v9.2.0")

    assert done.document["patches"][0]["outcome"] == "moved"
    assert done.document["patches"][0]["evidence"][0] == "vllm/model.py:24 (+7 lines)"
    assert files_of(world) == before


def test_changed_context_is_merged_and_a_second_file_is_written(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    world.add_patch("two.patch", world.upstream.patch({"vllm/envs.py": b"x\n"}, Topic="second"))
    theirs = edited(LINES, b"line 22\n", b"their line 22\n")
    add_release(world, "9.2.0", {"vllm/model.py": theirs})
    series = files_of(world)["series.txt"]

    done = rebase(world, "--onto", "v9.2.0")

    assert [step["outcome"] for step in done.document["patches"]] == ["merged", "unchanged"]
    assert done.document["patches"][0]["decision"] == "machine"
    assert trailer(world, "one.patch", "Bases") == ">=9,<9.2"
    assert trailer(world, "topic-9.2.patch", "Bases") == ">=9.2"
    assert files_of(world)["series.txt"] == edited(
        series, b"vllm/one.patch\n", b"vllm/one.patch\nvllm/topic-9.2.patch\n"
    )
    tree = patched(world, "v9.2.0")
    both = edited(theirs, b"line 20\n", b"our line 20\n")
    assert (tree.root / "vllm" / "model.py").read_bytes() == both
    # As git writes it of the commit on that release, but for what the header says of its range.
    again = tree.git("show", "sm12x~1:vllm/model.py")
    assert again == both
    world.good("lint")


def test_a_second_rebase_changes_nothing(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0", {"vllm/model.py": edited(LINES, b"line 22\n", b"their 22\n")})
    assert outcome(world) == (
        "merged",
        ["patches/vllm/one.patch", "patches/vllm/topic-9.2.patch", "series.txt"],
    )
    before = files_of(world)

    assert outcome(world) == ("unchanged", [])
    assert files_of(world) == before


def test_a_file_that_upstream_renamed_is_followed(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0", {"vllm/model.py": None, "vllm/models/big.py": LINES})

    done = rebase(world, "--onto", "v9.2.0")

    (step,) = done.document["patches"]
    assert step["outcome"] == "renamed"
    assert step["renames"] == [["vllm/model.py", "vllm/models/big.py"]]
    assert "vllm/model.py is vllm/models/big.py upstream" in step["evidence"]
    there = patched(world, "v9.2.0").root / "vllm" / "models" / "big.py"
    assert there.read_bytes() == OURS


def test_what_upstream_took_is_taken_off_in_the_order_of_the_stack(world: World) -> None:
    """Two patches on the same lines: the first can be taken off only after the second."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    twice = edited(OURS, b"our line 20\n", b"our line 20\nand more\n")
    world.add_patch("two.patch", world.upstream.patch({"vllm/model.py": twice}, Topic="second"))
    add_release(world, "9.2.0", {"vllm/model.py": b"new\n" + twice})

    done = rebase(world, "--onto", "v9.2.0")

    for step, name in zip(done.document["patches"], ("one.patch", "two.patch"), strict=True):
        assert step["outcome"] == "upstreamed"
        assert any(line.startswith("reverse-apply: ") for line in step["evidence"])
        assert trailer(world, name, "Bases") == ">=9,<9.2"
        assert trailer(world, name, "Applied-Upstream") == "9.2.0"
        assert trailer(world, name, "Drop-When") == "upstream >= 9.2"
    assert [
        row["state"] for row in world.good("plan", "--base", "v9.2.0", "--json").document["topics"]
    ] == ["upstreamed"] * 2


def test_the_same_change_in_other_surroundings_is_known_by_its_patch_id(world: World) -> None:
    """Upstream made the same edit and changed lines so near that nothing can be taken off."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    theirs = edited(OURS, b"line 18\n", b"their line 18\n")
    add_release(world, "9.2.0", {"vllm/model.py": edited(theirs, b"line 22\n", b"their 22\n")})

    done = rebase(world, "--onto", "v9.2.0")

    (step,) = done.document["patches"]
    assert step["outcome"] == "upstreamed"
    signs = [line.split(":")[0] for line in step["evidence"]]
    assert "patch-id" in signs
    assert "reverse-apply" not in signs


def test_an_empty_merge_says_that_upstream_has_it(world: World) -> None:
    """Upstream made the edit and gave the file another name, so nothing else can show it."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0", {"vllm/model.py": None, "vllm/models/big.py": OURS})

    done = rebase(world, "--onto", "v9.2.0")

    (step,) = done.document["patches"]
    assert step["outcome"] == "upstreamed"
    signs = {line.split(":")[0] for line in step["evidence"]}
    assert "empty" in signs
    assert not signs & {"reverse-apply", "patch-id"}


def test_a_pull_request_named_upstream_is_shown_and_proves_nothing(world: World) -> None:
    content = world.upstream.patch({"vllm/model.py": OURS}, Forwarded="vllm-project/vllm#4711")
    world.add_patch("one.patch", content)
    theirs = edited(LINES, b"line 20\n", b"their line 20  # see #4711\n")
    add_release(world, "9.2.0", {"vllm/model.py": theirs})

    done = rebase(world, "--onto", "v9.2.0")

    assert done.status == 4
    evidence = done.document["stop"]["evidence"]
    assert any(line.startswith("number: ") and "see #4711" in line for line in evidence)


def test_a_merge_that_changes_less_than_the_patch_must_be_accepted(world: World) -> None:
    """Upstream took one of two edits: what is left isn't the patch that somebody reviewed."""
    ours = edited(OURS, b"line 30\n", b"our line 30\n")
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": ours}))
    add_release(world, "9.2.0", {"vllm/model.py": OURS})
    before = files_of(world)

    done = rebase(world, "--onto", "v9.2.0")

    assert done.status == 4
    assert done.document["stop"]["kind"] == "review"
    assert "our line 20" in done.document["stop"]["range_diff"]
    assert files_of(world) == before
    refused = rebase(world, "--continue")
    assert refused.status == 4
    assert "--accept vllm/one.patch" in refused.next

    accepted = rebase(world, "--continue", "--accept", "vllm/one.patch")

    assert accepted.status == 0, accepted.err
    assert accepted.document["patches"][0]["decision"] == "accepted"
    assert (patched(world, "v9.2.0").root / "vllm" / "model.py").read_bytes() == ours


def test_accept_may_be_given_beforehand(world: World) -> None:
    ours = edited(OURS, b"line 30\n", b"our line 30\n")
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": ours}))
    add_release(world, "9.2.0", {"vllm/model.py": OURS})

    assert outcome(world, "--accept", "topic")[0] == "merged"
    assert trailer(world, "topic-9.2.patch", "Bases") == ">=9.2"


def test_upstreams_own_version_next_to_a_patch_is_pointed_out(world: World) -> None:
    added = edited(LINES, b"line 20\n", b"line 20\nlist(APPEND ARCHS ${SM12X_ARCHS})\n")
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": added}))
    theirs = edited(LINES, b"line 14\n", b'line 14\nlist(APPEND ARCHS "12.0f")\n')
    add_release(world, "9.2.0", {"vllm/model.py": theirs})

    done = rebase(world, "--onto", "v9.2.0")

    assert done.document["patches"][0]["outcome"] == "moved"
    (note,) = [note for note in done.document["notes"] if "has upstream taken it?" in note]
    assert 'vllm/model.py:15 list(APPEND ARCHS "12.0f")' in note


def test_pins_that_moved_and_conditions_that_are_due_are_said(world: World) -> None:
    content = world.upstream.patch({"vllm/model.py": OURS}, Drop_When="upstream >= 9.1")
    world.add_patch("one.patch", content)
    add_release(world, "9.2.0", {})
    bases = world.root / "bases.toml"
    text = bases.read_text(encoding="utf-8")
    head, _, last = text.rpartition('torch = "2.11.0"')
    bases.write_text(f'{head}torch = "2.12.0"{last}', encoding="utf-8")

    notes = rebase(world, "--onto", "v9.2.0").document["notes"]

    assert "vllm/one.patch is due to be dropped" in notes
    assert "v9.2.0: torch moved from 2.11.0 to 2.12.0" in notes


def test_a_release_that_skips_others_bounds_the_old_file(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}, Bases=">=9.1"))
    add_release(world, "9.2.0", {})
    add_release(world, "9.3.0", {"vllm/model.py": edited(LINES, b"line 22\n", b"their 22\n")})

    done = rebase(world, "--onto", "v9.3.0", "--from", "v9.1.0")

    assert done.status == 0, done.err
    assert trailer(world, "one.patch", "Bases") == ">=9.1,<9.3"
    matrix = world.good("matrix", "--json").document
    assert {cell["state"] for cell in matrix["cells"]} == {"applies"}


def test_numbers_of_lines_dont_hide_a_change_of_the_release_before(world: World) -> None:
    """A patch for an older file is followed from the release that it is for."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}, Bases="<9.2"))
    world.upstream.git("reset", "--quiet", "--hard", "HEAD~1")
    other = numbered(40, "row")
    add_release(world, "9.2.0", {"vllm/model.py": other})
    add_release(world, "9.3.0", {"vllm/model.py": edited(other, b"row 22\n", b"their 22\n")})
    world.upstream.commit({"vllm/model.py": other}, "upstream 9.2.0")
    ours = edited(other, b"row 20\n", b"our row 20\n")
    world.add_patch("new.patch", world.upstream.patch({"vllm/model.py": ours}, Bases=">=9.2"))

    done = rebase(world, "--onto", "v9.3.0")

    (step,) = done.document["patches"]
    assert (step["patch"], step["outcome"]) == ("vllm/new.patch", "merged")
    assert trailer(world, "new.patch", "Bases") == ">=9.2,<9.3"
    assert trailer(world, "one.patch", "Bases") == "<9.2"
