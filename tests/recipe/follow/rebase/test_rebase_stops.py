# SPDX-License-Identifier: Apache-2.0
"""A rebase that stops, goes on, is given up, rolled back or killed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.recipe import small
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
from tests.recipe.world import World

OURS = edited(LINES, b"line 20\n", b"our line 20\n")
THEIRS = edited(LINES, b"line 20\n", b"their line 20\n")
BOTH = edited(LINES, b"line 20\n", b"our line 20\ntheir line 20\n")


@pytest.fixture
def conflict(world: World) -> World:
    """Three patches, the second of which is in conflict with v9.2.0."""
    first = world.upstream.patch({"vllm/envs.py": b"first\n"}, Topic="first")
    world.add_patch("first.patch", first)
    world.add_patch("topic.patch", world.upstream.patch({"vllm/model.py": OURS}))
    third = world.upstream.patch({"docs/new.txt": b"third\n"}, Topic="third")
    world.add_patch("third.patch", third)
    add_release(world, "9.2.0", {"vllm/model.py": THEIRS})
    return world


def stop(world: World, *args: str) -> Path:
    """Rebase onto v9.2.0 up to the conflict; the file that is in conflict."""
    done = rebase(world, "--onto", "v9.2.0", *args)
    assert done.status == 4, done.err
    assert done.document["state"] == "stopped"
    return stopped_tree(world) / "vllm" / "model.py"


def test_it_stops_at_the_hunk_and_writes_nothing(conflict: World) -> None:
    before = files_of(conflict)

    done = rebase(conflict, "--onto", "v9.2.0")

    assert done.status == 4
    stopped = done.document["stop"]
    assert stopped["patch"] == "vllm/topic.patch"
    assert stopped["kind"] == "conflict"
    assert stopped["evidence"][0] == "vllm/model.py:20 (upstream changed the same lines)"
    assert "rebase --continue" in done.next
    text = (stopped_tree(conflict) / "vllm" / "model.py").read_bytes()
    assert b"<<<<<<< HEAD\ntheir line 20\n=======\nour line 20\n>>>>>>> " in text
    # The patch before it is in the tree, so that the person sees what a build will have.
    assert (stopped_tree(conflict) / "vllm" / "envs.py").read_bytes() == b"first\n"
    assert files_of(conflict) == before


def test_going_on_takes_the_persons_tree(conflict: World) -> None:
    file = stop(conflict)
    file.write_bytes(BOTH)

    done = rebase(conflict, "--continue")

    assert done.status == 0, done.err
    steps = {step["topic"]: step for step in done.document["patches"]}
    assert steps["topic"]["decision"] == "hand"
    assert steps["third"]["outcome"] == "unchanged"
    assert trailer(conflict, "topic-9.2.patch", "Bases") == ">=9.2"
    assert trailer(conflict, "topic.patch", "Bases") == ">=9,<9.2"
    assert (patched(conflict, "v9.2.0").root / "vllm" / "model.py").read_bytes() == BOTH
    assert (patched(conflict, "v9.1.0").root / "vllm" / "model.py").read_bytes() == OURS
    assert not (conflict.root / ".rebase").exists()
    conflict.good("lint")


def test_a_resolution_may_be_committed_in_the_tree(conflict: World) -> None:
    file = stop(conflict)
    file.write_bytes(BOTH)
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    command = ["git", *who, "commit", "--quiet", "--all", "-m", "resolved"]
    subprocess.run(command, cwd=stopped_tree(conflict), check=True)

    assert rebase(conflict, "--continue").status == 0
    assert (patched(conflict, "v9.2.0").root / "vllm" / "model.py").read_bytes() == BOTH


def test_markers_that_are_left_are_named(conflict: World) -> None:
    file = stop(conflict)

    done = rebase(conflict, "--continue")

    assert done.status == 4
    assert "vllm/model.py:20" in done.err
    assert b"<<<<<<<" in file.read_bytes()


def test_a_tree_with_nothing_of_the_patch_asks_for_the_reason(conflict: World) -> None:
    stop(conflict).write_bytes(THEIRS)

    done = rebase(conflict, "--continue")

    assert done.status == 4
    assert "--skip upstreamed" in done.next


def test_a_deleted_file_must_be_decided(world: World) -> None:
    world.add_patch("topic.patch", world.upstream.patch({"vllm/model.py": OURS}))
    add_release(world, "9.2.0", {"vllm/model.py": None})
    done = rebase(world, "--onto", "v9.2.0")
    assert done.document["stop"]["evidence"][0] == (
        "vllm/model.py (upstream has no such file any more)"
    )

    asked = rebase(world, "--continue")

    assert asked.status == 4
    assert "undecided: vllm/model.py" in asked.err
    subprocess.run(["git", "rm", "-q", "vllm/model.py"], cwd=stopped_tree(world), check=True)
    assert "--skip" in rebase(world, "--continue").next


def test_skipping_says_in_the_header_why(conflict: World) -> None:
    stop(conflict)

    done = rebase(conflict, "--skip")

    assert done.status == 0, done.err
    assert trailer(conflict, "topic.patch", "Bases") == ">=9,<9.2"
    assert trailer(conflict, "topic.patch", "Not-Needed") == ">=9.2"
    states = conflict.good("plan", "--base", "v9.2.0", "--json").document["topics"]
    assert [row["state"] for row in states] == ["applies", "not-needed", "applies"]


def test_skipping_as_upstreamed_names_the_release(conflict: World) -> None:
    stop(conflict)

    assert rebase(conflict, "--skip", "upstreamed").status == 0

    assert trailer(conflict, "topic.patch", "Applied-Upstream") == "9.2.0"
    assert trailer(conflict, "topic.patch", "Drop-When") == "upstream >= 9.2"
    assert trailer(conflict, "topic.patch", "Not-Needed") is None


def test_giving_up_leaves_the_project_as_it_was(conflict: World) -> None:
    before = files_of(conflict)
    stop(conflict).write_bytes(BOTH)

    assert rebase(conflict, "--abort").status == 0

    assert files_of(conflict) == before
    assert not (conflict.root / ".rebase").exists()
    assert rebase(conflict, "--continue").status == 2


def test_a_second_rebase_waits_for_the_first_to_end(conflict: World) -> None:
    stop(conflict)

    done = rebase(conflict, "--onto", "v9.2.0")

    assert done.status == 2
    assert "stopped at patches/vllm/topic.patch" in done.err
    assert "--continue" in done.next


def test_a_series_changed_meanwhile_stops_it_and_loses_nothing(conflict: World) -> None:
    file = stop(conflict)
    file.write_bytes(BOTH)
    with (conflict.root / "series.txt").open("a", encoding="utf-8") as series:
        series.write("# another comment\n")

    done = rebase(conflict, "--continue")

    assert done.status == 2
    assert "changed since" in done.err
    assert file.read_bytes() == BOTH


def test_a_damaged_state_can_be_given_up(conflict: World) -> None:
    stop(conflict)
    (conflict.root / ".rebase" / "state.json").write_text('{"schema": 1, "onto"', encoding="utf-8")

    assert rebase(conflict, "--continue").status == 2
    assert "--abort" in rebase(conflict, "--continue").next
    assert rebase(conflict, "--abort").status == 0
    assert not (conflict.root / ".rebase").exists()


def test_a_work_tree_that_was_lost_is_made_again(conflict: World) -> None:
    file = stop(conflict)
    subprocess.run(["rm", "-rf", str(stopped_tree(conflict))], check=True)

    done = rebase(conflict, "--continue")

    assert done.status == 4
    assert b"<<<<<<<" in file.read_bytes()


def test_the_command_runs_in_the_tree_after_each_patch(conflict: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = (
        f'echo "$SM12X_BASE $SM12X_PATCH $(cat vllm/envs.py | head -1)" >> {shlex.quote(str(log))}'
    )
    stop(conflict, "--exec", command).write_bytes(BOTH)
    assert rebase(conflict, "--continue").status == 0

    assert log.read_text(encoding="utf-8").splitlines() == [
        "v9.2.0 vllm/first.patch first",
        "v9.2.0 vllm/topic.patch first",
        "v9.2.0 vllm/third.patch first",
    ]


def test_a_command_that_fails_rolls_everything_back(conflict: World) -> None:
    before = files_of(conflict)
    stop(conflict, "--exec", "test ! -e docs/new.txt").write_bytes(BOTH)

    done = rebase(conflict, "--continue")

    assert done.status == 7
    assert "after patches/vllm/third.patch" in done.err
    assert files_of(conflict) == before
    assert not (conflict.root / ".rebase").exists()
    # What was resolved before the patch that failed needn't be resolved again.
    again = rebase(conflict, "--onto", "v9.2.0")
    assert again.status == 0, again.err
    assert {s["topic"]: s["decision"] for s in again.document["patches"]}["topic"] == "remembered"
    assert (patched(conflict, "v9.2.0").root / "vllm" / "model.py").read_bytes() == BOTH


def test_a_resolution_that_the_command_refuses_is_forgotten(conflict: World) -> None:
    stop(conflict, "--exec", "! grep -q our vllm/model.py").write_bytes(BOTH)

    assert rebase(conflict, "--continue").status == 7

    assert rebase(conflict, "--onto", "v9.2.0").status == 4


def test_a_resolution_given_up_is_forgotten(world: World) -> None:
    """Of two conflicts the first is resolved: giving up must bring it back."""
    world.add_patch("topic.patch", world.upstream.patch({"vllm/model.py": OURS}))
    envs = small.TREE["vllm/envs.py"]
    ours = edited(envs, b"knob 3\n", b"our knob\n")
    world.add_patch("second.patch", world.upstream.patch({"vllm/envs.py": ours}, Topic="second"))
    theirs = edited(envs, b"knob 3\n", b"their knob\n")
    add_release(world, "9.2.0", {"vllm/model.py": THEIRS, "vllm/envs.py": theirs})
    stop(world).write_bytes(BOTH)
    assert rebase(world, "--continue").document["stop"]["patch"] == "vllm/second.patch"

    assert rebase(world, "--abort").status == 0

    done = rebase(world, "--onto", "v9.2.0")
    assert done.document["stop"]["patch"] == "vllm/topic.patch"


def test_options_of_the_beginning_are_refused_later(conflict: World) -> None:
    stop(conflict).write_bytes(BOTH)

    for given in (["--onto", "v9.2.0"], ["--exec", "true"], ["--source", "git"]):
        done = rebase(conflict, "--continue", *given)
        assert done.status == 2
        assert f"{given[0]} is for the beginning" in done.err
        assert done.document["error"]["exit_code"] == 2
    assert stopped_tree(conflict).exists()


def test_an_unknown_patch_cant_be_accepted(conflict: World) -> None:
    done = rebase(conflict, "--onto", "v9.2.0", "--accept", "vllm/frist.patch")

    assert done.status == 2
    assert "--accept vllm/frist.patch" in done.err
    assert not (conflict.root / ".rebase").exists()


def test_a_new_file_in_the_tree_is_not_left_out_in_silence(conflict: World) -> None:
    stop(conflict).write_bytes(BOTH)
    new = stopped_tree(conflict) / "vllm" / "new file.py"
    new.write_bytes(b"new\n")

    done = rebase(conflict, "--continue")

    assert done.status == 4
    assert "vllm/new file.py" in done.err
    subprocess.run(["git", "add", "--all"], cwd=stopped_tree(conflict), check=True)
    assert rebase(conflict, "--continue").status == 0
    made = patched(conflict, "v9.2.0").root / "vllm" / "new file.py"
    assert made.read_bytes() == b"new\n"


def test_a_cache_that_was_emptied_is_said(conflict: World) -> None:
    file = stop(conflict)
    file.write_bytes(BOTH)
    shutil.rmtree(conflict.cache)

    done = rebase(conflict, "--continue")

    assert done.status == 3
    assert "no longer holds" in done.err
    assert file.read_bytes() == BOTH
    assert rebase(conflict, "--abort").status == 0
    assert rebase(conflict, "--onto", "v9.2.0").status == 4


def test_a_lock_that_a_killed_git_left_in_the_tree_is_named(conflict: World) -> None:
    stop(conflict).write_bytes(BOTH)
    lock = stopped_tree(conflict) / ".git" / "index.lock"
    lock.touch()

    done = rebase(conflict, "--continue")

    assert done.status == 8
    assert f"rm {lock}" in done.next
    lock.unlink()
    assert rebase(conflict, "--continue").status == 0


def test_a_folder_that_cant_be_written_is_named(conflict: World) -> None:
    (conflict.root / ".rebase").write_bytes(b"a file")

    done = rebase(conflict, "--onto", "v9.2.0")

    assert done.status == 8
    assert ".rebase can't be written" in done.err
    assert (conflict.root / ".rebase").read_bytes() == b"a file"


def test_a_command_that_changes_and_commits_leaves_no_trace(conflict: World) -> None:
    """It even leaves git's lock behind, as one that was killed does."""
    command = (
        "echo x >> vllm/envs.py; touch junk; git add -A; git -c user.name=x -c user.email=x@y "
        'commit -qm x; rm -r vllm; test -z "$GIT_DIR$GIT_CONFIG_GLOBAL"'
    )
    stop(conflict, "--exec", command).write_bytes(BOTH)
    exec_lock = conflict.root / ".rebase" / "exec" / ".git" / "index.lock"
    exec_lock.touch()

    done = rebase(conflict, "--continue")

    assert done.status == 0, done.err
    tree = patched(conflict, "v9.2.0").root
    assert (tree / "vllm" / "envs.py").read_bytes() == b"first\n"
    assert not (tree / "junk").exists()
