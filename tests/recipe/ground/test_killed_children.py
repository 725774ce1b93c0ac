# SPDX-License-Identifier: Apache-2.0
"""A git that dies by a signal is never an answer: the right result, or an error of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from recipe.ground import run
from tests.recipe.killing import ENDS, answer, killed_at_every_call
from tests.recipe.next_release import LINES, add_release, edited
from tests.recipe.world import World

VERBS = {
    "matrix": ["matrix"],
    "rebase": ["rebase", "--onto", "v9.2.0"],
    "apply": ["apply", "--base", "v9.1.0", "--tree", "{tree}"],
    "lint": ["lint"],
    "refresh": ["refresh"],
    "refresh of a tree": ["refresh", "--tree", "{edited}"],
    "plan": ["plan", "--base", "v9.1.0"],
    "build": ["build", "--base", "v9.1.0", "--native", "none", "--no-test", "--out", "{out}"],
}


@pytest.fixture
def followed(world: World) -> World:
    """Two releases; on the second one patch has moved, and the other is upstream."""
    lines = {number: b"line %d\n" % number for number in (20, 36)}
    one = edited(LINES, lines[20], b"our line 20\n")
    world.add_patch("moves.patch", world.upstream.patch({"vllm/model.py": one}))
    two = edited(one, lines[36], b"the better line 36\n")
    taken = world.upstream.patch({"vllm/model.py": two}, "Take it", Topic="taken")
    world.add_patch("taken.patch", taken)
    theirs = b"new\n" + edited(LINES, lines[36], b"the better line 36\n")
    add_release(world, "9.2.0", {"vllm/model.py": theirs})
    world.good("bases")
    return world


def arguments(world: World, words: Sequence[str]) -> list[str]:
    places = {
        "tree": str(world.root / "tree"),
        "out": str(world.out),
        "edited": str(world.root / "edited"),
    }
    return [*(word.format(**places) for word in words), "--json"]


def fetched_only(world: World) -> None:
    """Leave the downloads alone in the cache: what git makes of them is made in each run."""
    world.good("apply", "--base", "v9.1.0", "--tree", str(world.root / "edited"))
    world.good("matrix")
    for path in world.cache.iterdir():
        if path.name != "downloads":
            shutil.rmtree(path)


@pytest.mark.parametrize("verb", VERBS)
def test_a_killed_git_is_never_an_answer(followed: World, verb: str) -> None:
    fetched_only(followed)
    words = arguments(followed, VERBS[verb])

    runs = killed_at_every_call(followed, words)

    good, killed = runs[-1], runs[:-1]
    assert good.status == 0, good.err
    assert any(one.status != 0 for one in killed) or not killed
    # As they were before, or as the whole run leaves them, if a git dies that only clears away.
    left = {one.left for one in killed if one.status != 0}
    assert left <= {runs[0].left, good.left}, left
    for one in killed:
        where = f"git number {one.number} of {len(killed)}\n{one.err}"
        assert "Traceback" not in one.err, where
        if one.status == 0:
            assert answer(one.out) == answer(good.out), where
        else:
            assert one.status == run.Killed.exit_code, where
            assert "was killed by signal 9 (SIGKILL)" in one.err, where
        if one.again is not None:
            assert one.again.status == 0, f"{where}\nagain: {one.again.err}"
            assert answer(one.again.out) == answer(good.out), where


@pytest.mark.parametrize("end", ENDS)
def test_a_wrapper_that_says_what_ended_its_git_is_heard(followed: World, end: str) -> None:
    fetched_only(followed)
    runs = killed_at_every_call(followed, arguments(followed, VERBS["plan"]), end=end, last=6)
    assert {one.status for one in runs} == {run.Killed.exit_code}, [one.err for one in runs]


@pytest.mark.parametrize(
    ("script", "number"), [("kill -KILL $$", 9), ("kill -SEGV $$", 11), ("exit 137", 9)]
)
def test_every_way_to_run_a_command_hears_a_signal(
    tmp_path: Path, script: str, number: int
) -> None:
    command = ["sh", "-c", script]
    calls: list[Callable[[], object]] = [
        lambda: run.output(command),
        lambda: run.output_together(command, cwd=tmp_path, env={}),
        lambda: run.pipe(command, ["cat"], env={}),
        lambda: run.pipe(["true"], command, env={}),
    ]
    if script.startswith("kill"):  # a shell's 137 may be the caller's own command's
        calls.append(lambda: run.show(command, cwd=tmp_path, env={}))
        calls.append(lambda: run.measured(command, cwd=tmp_path, env={}))
    for call in calls:
        with pytest.raises(run.Killed, match=f"sh was killed by signal {number} ") as error:
            call()
        assert error.value.signal == number


@pytest.mark.parametrize("status", [1, 128, 129, 255])
def test_what_git_says_itself_is_no_signal(status: int) -> None:
    with pytest.raises(run.CommandFailed) as error:
        run.output(["sh", "-c", f"exit {status}"])
    assert error.value.returncode == status
