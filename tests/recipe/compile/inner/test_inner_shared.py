# SPDX-License-Identifier: Apache-2.0
"""Two runs at once and a run that is killed leave one whole folder for the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from recipe.objects.gate.folder import every_entry
from recipe.objects.ids import tree_id
from tests.recipe.inners import Inner
from tests.recipe.world import CHECKOUT

# A tree that takes long enough to be written that a run can be killed in the middle.
FILES = 3000
PROGRAM = """
import sys
from pathlib import Path
from recipe.objects.gate.names import Entry
from recipe.ground.project import Project
from recipe.compile.inner.tree import materialise, tree_id, write_entries
entries = [Entry(path=f"d{n % 50}/{n}", mode="100644", content=b"%d" % n) for n in range(FILES)]
project = Project(root=Path("x"), cache=Path(sys.argv[1]))
print(materialise(project, "many", tree_id(entries), lambda f: write_entries(entries, f)))
"""


def start(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("FILES", str(FILES)), str(cache)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_runs_give_the_same_folder(tmp_path: Path) -> None:
    runs = [start(tmp_path) for _ in range(2)]
    outs = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outs
    assert outs[0][0] == outs[1][0]
    folder = Path(outs[0][0].strip())
    assert tree_id(every_entry(folder)) == folder.name


def test_a_killed_run_leaves_nothing_half_written(tmp_path: Path) -> None:
    run = start(tmp_path)
    target = tmp_path / "inner" / "many"
    while not any((tmp_path / "tmp").rglob("d*/*")) and run.poll() is None:
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    assert not target.exists()
    again = start(tmp_path)
    out, err = again.communicate()
    assert again.returncode == 0, err
    folder = Path(out.strip())
    assert tree_id(every_entry(folder)) == folder.name


def test_two_sources_at_once_share_the_store(inner: Inner) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=2) as pool:
        runs = [pool.submit(inner.ask, "_kernels_C", "_moe_C", offline=False) for _ in range(2)]
    assert runs[0].result() == runs[1].result()
