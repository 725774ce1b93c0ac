# SPDX-License-Identifier: Apache-2.0
"""A rebase that is killed goes on from its last decision, and its files are whole."""

from __future__ import annotations

import json

from recipe.follow.rebase import state as rebase_state
from recipe.follow.rebase.state import State
from recipe.ground import scratch
from recipe.ground.project import Project
from tests.recipe.next_release import (
    LINES,
    add_release,
    edited,
    files_of,
    rebase,
    stopped_tree,
    trailer,
)
from tests.recipe.world import World

OURS = edited(LINES, b"line 20\n", b"our line 20\n")


def two_patches(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    second = world.upstream.patch({"vllm/envs.py": b"x\n"}, Topic="second")
    world.add_patch("two.patch", second)
    theirs = edited(LINES, b"line 22\n", b"their 22\n")
    add_release(world, "9.2.0", {"vllm/model.py": theirs})


def test_killed_between_two_patches_it_goes_on(world: World) -> None:
    two_patches(world)
    before = files_of(world)
    running = world.root / "running"
    # The command is in the middle of the second patch when everything is killed.
    command = f'if [ "$SM12X_PATCH" = vllm/two.patch ]; then touch {running}; sleep 60; fi'
    world.kill_when(running.exists, "rebase", "--onto", "v9.2.0", "--exec", command)
    assert files_of(world) == before
    state = json.loads((world.root / ".rebase" / "state.json").read_bytes())
    assert [step["patch"] for step in state["steps"]] == ["vllm/one.patch"]
    state["command"] = "true"
    (world.root / ".rebase" / "state.json").write_text(json.dumps(state), encoding="utf-8")
    assert "interrupted after 1 topics" in rebase(world, "--onto", "v9.2.0").err

    done = rebase(world, "--continue")

    assert done.status == 0, done.err
    assert [step["outcome"] for step in done.document["patches"]] == ["merged", "unchanged"]
    assert trailer(world, "topic-9.2.patch", "Bases") == ">=9.2"
    world.good("lint")


def test_killed_between_two_patches_it_can_be_given_up(world: World) -> None:
    two_patches(world)
    before = files_of(world)
    running = world.root / "running"
    command = f"touch {running}; sleep 60"
    world.kill_when(running.exists, "rebase", "--onto", "v9.2.0", "--exec", command)

    assert rebase(world, "--abort").status == 0

    assert files_of(world) == before
    assert rebase(world, "--onto", "v9.2.0").status == 0


def test_killed_while_it_writes_it_writes_on(world: World) -> None:
    """The state on the disk is that of a kill after the first of two files."""
    two_patches(world)
    project = Project(root=world.root, cache=world.cache)
    new = files_of(world)["patches/vllm/one.patch"] + b"\n"
    staged = rebase_state.folder(project) / "written"
    for name, content in {"patches/vllm/one.patch": new, "series.txt": b"vllm/one.patch\n"}.items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).write_bytes(content)
    state = State(
        onto="v9.2.0",
        origin="v9.1.0",
        upstream="vllm",
        source="auto",
        command=None,
        accept=(),
        inputs="of another series by now",
        finishing=True,
    )
    rebase_state.save(project, state)
    (world.root / "patches" / "vllm" / "one.patch").write_bytes(new)

    refused = rebase(world, "--abort")
    assert refused.status == 2
    assert "--continue" in refused.next
    done = rebase(world, "--continue")

    assert done.status == 0, done.err
    assert files_of(world)["series.txt"] == b"vllm/one.patch\n"
    assert done.document["written"] == ["patches/vllm/one.patch", "series.txt"]
    assert not (world.root / ".rebase").exists()


def test_killed_while_it_makes_the_work_tree_it_makes_it_again(world: World) -> None:
    world.add_patch("one.patch", world.upstream.patch({"vllm/model.py": OURS}))
    theirs = edited(LINES, b"line 20\n", b"their line 20\n")
    add_release(world, "9.2.0", {"vllm/model.py": theirs})
    assert rebase(world, "--onto", "v9.2.0").status == 4
    tree = stopped_tree(world)
    left = tree.with_name(scratch.half_written(tree))
    tree.rename(left)

    assert rebase(world, "--continue").status == 4

    assert b"<<<<<<<" in (tree / "vllm" / "model.py").read_bytes()
    assert not left.exists()
