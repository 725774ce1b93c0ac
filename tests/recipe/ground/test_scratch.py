# SPDX-License-Identifier: Apache-2.0
"""Temporary folders: gone after use, cleared after a kill, left alone while in use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipe.ground import scratch

HOLD = """
import sys, time
from pathlib import Path
from recipe.ground import scratch
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
