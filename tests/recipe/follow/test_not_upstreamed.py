# SPDX-License-Identifier: Apache-2.0
"""What looks as if upstream had taken a patch, and isn't: nothing is dropped without a person."""

from __future__ import annotations

from tests.recipe.next_release import (
    LINES,
    add_release,
    edited,
    files_of,
    patched,
    rebase,
    stopped_tree,
    trailer,
)
from tests.recipe.world import Done, World

OURS = edited(LINES, b"line 20\n", b"our line 20\n")
BLOCK = b"begin\none\ntwo\nthree\nold\nfour\nfive\nsix\nend\n"
DONE = edited(BLOCK, b"old\n", b"new\n")


def onto(world: World, theirs: dict[str, bytes | None], *args: str) -> Done:
    add_release(world, "9.2.0", theirs)
    return rebase(world, "--onto", "v9.2.0", *args)


def test_a_file_that_upstream_changed_and_the_patch_removes(world: World) -> None:
    """git leaves upstream's file in the merged tree, which then is what it was."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": None}))

    done = onto(world, {"vllm/model.py": edited(LINES, b"line 5\n", b"their line 5\n")})

    assert done.status == 4, done.err
    assert done.document["stop"]["kind"] == "conflict"


def test_a_binary_file_that_both_changed(world: World) -> None:
    """Here too; and going on at once would leave the binary part out."""
    ours = {"vllm/data/x.bin": b"\0ours\n", "vllm/model.py": OURS}
    world.upstream.commit({"vllm/data/x.bin": b"\0\n"}, "upstream")
    add_release(world, "9.2.0", {"vllm/data/x.bin": b"\0\n"})
    world.add_patch("one.patch", world.upstream.patch(ours, Bases=">=9.2"))
    add_release(world, "9.3.0", {"vllm/data/x.bin": b"\0theirs\n"})

    done = rebase(world, "--onto", "v9.3.0")

    assert done.status == 4, done.err
    assert "a binary file" in done.document["stop"]["evidence"][0]
    asked = rebase(world, "--continue")
    assert asked.status == 4
    assert "undecided: vllm/data/x.bin" in asked.err


def test_the_same_lines_in_a_copy_of_the_code(world: World) -> None:
    """The second of two equal blocks is changed, and upstream always had that in the first."""
    filler = b"".join(b"filler %d\n" % n for n in range(30))
    both = DONE + filler + BLOCK
    add_release(world, "9.2.0", {"vllm/model.py": both})
    world.upstream.commit({"vllm/model.py": both}, "upstream")
    ours = {"vllm/model.py": DONE + filler + DONE}
    world.add_patch("one.patch", world.upstream.patch(ours, Bases=">=9.2"))
    theirs = DONE + filler + edited(BLOCK, b"six\n", b"their six\n")
    add_release(world, "9.3.0", {"vllm/model.py": theirs.replace(b"three\nold", b"their 3\nold")})

    done = rebase(world, "--onto", "v9.3.0")

    assert done.status == 4, done.err
    assert "old" in (stopped_tree(world) / "vllm" / "model.py").read_text(encoding="utf-8")


def test_a_patch_that_would_go_on_in_a_copy_of_the_code(world: World) -> None:
    """Upstream changed the block it is for, and has another one like it."""
    filler = b"".join(b"filler %d\n" % n for n in range(30))
    add_release(world, "9.2.0", {"vllm/model.py": BLOCK + filler + BLOCK})
    world.upstream.commit({"vllm/model.py": BLOCK + filler + BLOCK}, "upstream")
    ours = {"vllm/model.py": DONE + filler + BLOCK}
    content = world.upstream.patch(ours, Bases=">=9.2", Not_Needed="<9.2")
    world.add_patch("one.patch", content)
    theirs = edited(BLOCK, b"six\n", b"their six\n").replace(b"two\n", b"their two\n")
    add_release(world, "9.3.0", {"vllm/model.py": theirs + filler + BLOCK})

    done = rebase(world, "--onto", "v9.3.0")

    assert done.status == 0, done.err
    assert done.document["patches"][0]["outcome"] == "merged"
    made = (patched(world, "v9.3.0").root / "vllm" / "model.py").read_bytes()
    assert made == edited(theirs, b"old\n", b"new\n") + filler + BLOCK


def test_lines_of_which_upstream_took_one_elsewhere(world: World) -> None:
    """A patch-id is of the lines alone: a blank line or a brace has the same one anywhere."""
    ours = edited(LINES, b"line 10\n", b"line 10\n}\n")
    ours = edited(ours, b"line 16\n", b"line 16\n}\n")
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": ours}))
    theirs = edited(LINES, b"line 36\n", b"line 36\n}\n")
    theirs = edited(theirs, b"line 10\nline 11\n", b"their 10\ntheir 11\n")

    assert onto(world, {"vllm/model.py": theirs}).status == 4


def test_one_change_of_upstreams_stands_for_one_of_the_patch(world: World) -> None:
    ours = edited(LINES, b"line 10\n", b"line 10\nours\n")
    ours = edited(ours, b"line 16\n", b"line 16\nours\n")
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": ours}))
    theirs = edited(LINES, b"line 10\n", b"line 10\nours\n")
    theirs = edited(theirs, b"line 16\nline 17\n", b"their 16\ntheir 17\n")

    assert onto(world, {"vllm/model.py": theirs}).status == 4


def test_a_line_that_upstream_indents_otherwise(world: World) -> None:
    ours = edited(LINES, b"line 20\n", b"line 20\n    return\n")
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": ours}))
    theirs = edited(LINES, b"line 20\n", b"line 20\n        return\n")

    assert onto(world, {"vllm/model.py": theirs}).status == 4


def test_a_mode_that_upstream_did_not_take(world: World) -> None:
    """All lines are upstream's, one of them among other changes, and the file isn't executable."""
    (world.upstream.root / "vllm" / "model.py").chmod(0o755)
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))

    done = onto(world, {"vllm/model.py": edited(OURS, b"line 18\n", b"their line 18\n")})

    assert done.status == 4, done.err
    assert done.document["stop"]["kind"] == "review"


def test_what_another_patch_has_brought_is_not_upstreams(world: World) -> None:
    """The first patch was resolved so that it does what the second one did."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    more = edited(OURS, b"line 24\n", b"more\n")
    world.add_patch("two.patch", world.upstream.patch({"vllm/model.py": more}, Topic="second"))
    done = onto(world, {"vllm/model.py": edited(LINES, b"line 20\n", b"their line 20\n")})
    assert done.status == 4
    (stopped_tree(world) / "vllm" / "model.py").write_bytes(more)

    done = rebase(world, "--continue")

    assert done.status == 4, done.err
    assert done.document["stop"]["patch"] == "vllm/two.patch"
    before = files_of(world)
    assert "--skip" in rebase(world, "--continue", "--accept", "vllm/two.patch").next
    assert files_of(world) == before
    assert rebase(world, "--skip").status == 0
    assert trailer(world, "two.patch", "Applied-Upstream") is None
