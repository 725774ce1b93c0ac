# SPDX-License-Identifier: Apache-2.0
"""A rebase between two tags of a repository: the commits between them speak, too."""

from __future__ import annotations

from tests.recipe import small
from tests.recipe.next_release import LINES, add_release, edited, rebase, trailer
from tests.recipe.repo import Repository, new_repository
from tests.recipe.world import World

OURS = edited(LINES, b"line 20\n", b"our line 20\n")


def tagged(world: World, changes: list[tuple[str, dict[str, bytes | None]]]) -> Repository:
    """Upstream's repository with both tags, pinned by the commits they are at."""
    made = new_repository(world.root.parent / "origin", small.TREE)
    first = made.text("rev-parse", "HEAD")
    made.git("tag", "v9.1.0")
    for message, files in changes:
        made.commit(files, message)
    made.git("tag", "v9.2.0")
    bases = world.root / "bases.toml"
    text = bases.read_text(encoding="utf-8").replace(small.COMMIT, first)
    wrong = add_release_commit(text)
    bases.write_text(text.replace(wrong, made.text("rev-parse", "HEAD")), encoding="utf-8")
    return made


def add_release_commit(text: str) -> str:
    """The commit that the second release is pinned at."""
    return text.rpartition('\ncommit = "')[2].partition('"')[0]


def test_a_commit_with_the_same_patch_id_is_named(world: World) -> None:
    """Later commits changed the lines around it: no tree has the patch as it was."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    theirs = edited(OURS, b"our line 20\n", b"another line 20\n")
    add_release(world, "9.2.0", {})
    origin = tagged(
        world,
        [("Take our line (#7)", {"vllm/model.py": OURS}), ("Rework", {"vllm/model.py": theirs})],
    )

    done = rebase(world, "--onto", "v9.2.0", "--source", origin.root.as_uri())

    assert done.status == 0, done.err
    (step,) = done.document["patches"]
    assert step["outcome"] == "upstreamed"
    assert any("Take our line (#7) is the same change" in line for line in step["evidence"])
    assert trailer(world, "one.patch", "Applied-Upstream") == "9.2.0"


def test_a_commit_message_that_names_the_pull_request_is_shown(world: World) -> None:
    content = world.upstream.patch({"vllm/model.py": OURS}, Forwarded="vllm-project/vllm#4711")
    world.add_patch("one.patch", content)
    theirs = edited(LINES, b"line 20\n", b"their line 20\n")
    add_release(world, "9.2.0", {})
    origin = tagged(world, [("Do it another way (#4711)", {"vllm/model.py": theirs})])

    done = rebase(world, "--onto", "v9.2.0", "--source", origin.root.as_uri())

    assert done.status == 4
    evidence = "\n".join(done.document["stop"]["evidence"])
    assert "Do it another way (#4711)" in evidence


def test_a_folder_is_no_source_of_two_releases(world: World) -> None:
    add_release(world, "9.2.0", {})

    done = rebase(world, "--onto", "v9.2.0", "--source", str(world.upstream.root))

    assert done.status == 2
    assert "a rebase needs two" in done.err


def test_a_mirror_without_another_release_and_gone_in_the_middle_changes_no_answer(
    world: World,
) -> None:
    """It is bare and named by its path; what was found with its commits stays found without it."""
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}, Topic="one"))
    envs = edited(small.TREE["vllm/envs.py"], b"knob 3\n", b"our knob\n")
    world.add_patch("zero.patch", world.upstream.patch({"vllm/envs.py": envs}, Topic="zero"))
    series = world.root / "series.txt"
    series.write_text("vllm/zero.patch\nvllm/one.patch\n", encoding="utf-8")
    theirs = edited(OURS, b"our line 20\n", b"another line 20\n")
    other = edited(small.TREE["vllm/envs.py"], b"knob 3\n", b"their knob\n")
    add_release(world, "9.2.0", {})
    origin = tagged(
        world,
        [
            ("Take our line (#7)", {"vllm/model.py": OURS}),
            ("Rework", {"vllm/model.py": theirs, "vllm/envs.py": other}),
        ],
    )
    add_release(world, "9.3.0", {})  # its tag is in no mirror
    mirror = world.root.parent / "mirror.git"
    origin.git("clone", "--quiet", "--bare", str(origin.root), str(mirror))

    done = rebase(world, "--onto", "v9.2.0", "--from", "v9.1.0", "--source", str(mirror))

    assert done.status == 4, done.err
    assert done.document["stop"]["patch"] == "vllm/zero.patch"
    mirror.rename(world.root.parent / "gone.git")
    done = rebase(world, "--skip", "not-needed")
    assert done.status == 0, done.err
    by_patch = {step["patch"]: step["outcome"] for step in done.document["patches"]}
    assert by_patch["vllm/one.patch"] == "upstreamed"
