# SPDX-License-Identifier: Apache-2.0
"""Temporary folders: gone after use, cleared after a kill, left alone while in use."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.ground import scratch
from recipe.ground.errors import UsageError

HOLD = """
import sys, time
from pathlib import Path
from recipe.ground import scratch
from recipe.ground.errors import UsageError
with scratch.folder(Path(sys.argv[1]), "test") as folder:
    (folder / "half").write_text("half")
    print(folder, flush=True)
    time.sleep(600)
"""


def start(cache: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cache)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def finish(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_folder_is_gone_after_use(tmp_path: Path) -> None:
    with scratch.folder(tmp_path, "index") as folder:
        (folder / "file").write_text("content")
    with pytest.raises(RuntimeError), scratch.folder(tmp_path, "index") as other:
        (other / "file").write_text("content")
        raise RuntimeError
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_folder_of_a_killed_run_is_cleared(tmp_path: Path) -> None:
    process, folder = start(tmp_path)
    finish(process)
    assert (folder / "half").exists()

    scratch.clear(tmp_path)

    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_folder_of_a_running_process_is_left_alone(tmp_path: Path) -> None:
    process, folder = start(tmp_path)
    try:
        scratch.clear(tmp_path)
        assert (folder / "half").exists()
    finally:
        finish(process)


def test_a_file_is_written_beside_and_no_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: "00000000")
    mine = tmp_path / "mine"
    mine.write_text("mine")
    target = tmp_path / "bases.toml"
    laid = tmp_path / scratch.half_written(target)
    laid.symlink_to(mine)

    with pytest.raises(FileExistsError):
        scratch.write_whole(target, b"new")

    assert mine.read_text() == "mine"
    assert laid.is_symlink()
    assert not target.exists()


def test_a_file_that_is_not_in_order_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "bases.toml"
    scratch.write_whole(target, b"old")

    def refuse(path: Path) -> None:
        assert path.read_bytes() == b"new"
        raise ValueError

    with pytest.raises(ValueError):
        scratch.write_whole(target, b"new", check=refuse)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_of_leftovers_only_those_of_killed_runs_go(tmp_path: Path) -> None:
    target = tmp_path / "tree"
    theirs = [".tree.part", ".tree.half-written", ".tree.0123.half-written", ".other.half-written"]
    for name in theirs:
        (tmp_path / name).write_text("somebody's")
    stale = tmp_path / scratch.half_written(target)
    stale.mkdir()
    with pytest.raises(UsageError, match="not empty"), scratch.whole(target, "--tree") as late:
        (late / "file").write_text("late")
        assert not stale.exists()
        with scratch.whole(target, "--tree") as first:
            assert late.exists(), "the other run took it for a killed one's"
            (first / "file").write_text("first")
    assert (target / "file").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*theirs, "tree"])


@pytest.mark.parametrize("name", ["x" * 300, "file/below"])
def test_a_folder_that_cannot_be_is_the_users_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--out"):
        scratch.check_writable(tmp_path / name, "--out")
    with pytest.raises(UsageError, match="--out"), scratch.whole(tmp_path / name, "--out"):
        pytest.fail("it was begun")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_the_system_keeps_to_itself_is_no_folder_to_write_to(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out /proc/x can't be written"):
        scratch.check_writable(Path("/proc/x"), "--out")
    scratch.check_writable(tmp_path / "a" / "b", "--out")
    assert list(tmp_path.iterdir()) == []
