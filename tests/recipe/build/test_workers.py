# SPDX-License-Identifier: Apache-2.0
"""Tests on all cores: the counts are those of one process, a file stays together, all ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.build import testing, workers
from recipe.cli.steps import steps
from recipe.compile.toolchain.jobs import processors
from recipe.ground.environments.made import Needs
from tests.recipe.processes import MARK, marked, wait_for
from tests.recipe.world import CHECKOUT

FILES = {
    "test_one.py": """\
import os
import pytest

def test_good():
    pass

def test_bad():
    assert False

@pytest.fixture
def broken():
    raise RuntimeError

def test_error(broken):
    pass
""",
    "test_two.py": """\
import pytest

@pytest.mark.parametrize("number", range(5))
def test_many(number):
    if number == 2:
        pytest.skip("not this one")

@pytest.mark.xfail
def test_expected():
    assert False
""",
    "test_three.py": "def test_alone():\n    pass\n",
}
SHARED = """\
import os
from pathlib import Path

def note(name):
    with Path(__file__).with_suffix(".workers").open("a") as f:
        f.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\\n")

def test_first():
    note("first")

def test_second():
    note("second")

def test_third():
    note("third")
"""
# Without the plugins of our own tests it starts at once.
BARE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
NEEDS = Needs(python="3.11", torch="none", requirements=())


def run(folder: Path, count: int) -> testing.Outcome:
    report = folder / f"report-{count}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", "-p", "xdist", *workers.options(count), str(folder)]
    env = {**os.environ, **BARE, **workers.environment(count)}
    subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
    return testing.read_report(report, NEEDS)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def test_workers_count_what_one_process_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the tests of a file share a worker, which has its share of the threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    write(tmp_path, FILES | {f"test_{name}.py": SHARED for name in ("a", "b", "c")})
    alone = run(tmp_path, 1)
    assert (alone.passed, alone.failed, alone.skipped) == (15, 2, 2)
    notes = [tmp_path / f"test_{name}.workers" for name in ("a", "b", "c")]
    assert len({line for note in notes for line in note.read_text().splitlines()}) == 1
    for note in notes:
        note.unlink()

    assert run(tmp_path, 2) == alone

    lines = [set(note.read_text().splitlines()) for note in notes]
    assert [len(several) for several in lines] == [1, 1, 1]
    threads = str(max(1, processors() // 2))
    assert {line.split()[1] for several in lines for line in several} == {threads}


def test_a_worker_that_dies_and_a_file_that_cannot_be_read_are_failures(tmp_path: Path) -> None:
    write(tmp_path, {"test_three.py": FILES["test_three.py"]})
    write(tmp_path, {"test_four.py": "import os\n\ndef test_it():\n    os._exit(0)\n"})
    write(tmp_path, {"test_five.py": "import nothing_of_this_name\n"})
    assert run(tmp_path, 2).failed == 2


def test_one_core_starts_nothing_beside_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert workers.options(1) == []
    assert workers.environment(1) == {}


def test_memory_bounds_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "processors", lambda: 64)
    monkeypatch.setattr(workers, "free_memory", lambda: 4 * workers.WORKER_BYTES)
    assert workers.workers() == 3


def test_threads_that_the_reader_chose_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert workers.environment(2) == {}


@pytest.mark.parametrize("given", ["--pdb", "--trace"])
def test_a_debugger_has_no_workers_beside_it(given: str) -> None:
    assert "-n" not in steps([given], 2)["recipe"]


def test_what_the_reader_gives_comes_last(tmp_path: Path) -> None:
    command = steps(["-n", "0", "-k", "lint"], 2)["recipe"]
    assert command[-4:] == ["-n", "0", "-k", "lint"]
    write(tmp_path, {"test_a.py": SHARED})
    report = [*steps(["-n", "0", str(tmp_path)], 2)["recipe"], "-c", os.devnull]
    done = subprocess.run(report, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "workers" not in done.stdout


def test_ctrl_c_ends_all_workers_and_what_they_started(tmp_path: Path) -> None:
    """The reader's Ctrl-C reaches us alone: pytest has a process group of its own."""
    write(
        tmp_path,
        {
            f"test_{name}.py": "import subprocess\n\n"
            "def test_it():\n    subprocess.run(['sleep', '600'])\n"
            for name in ("a", "b")
        },
    )
    code = (
        "import sys; from pathlib import Path; from recipe.ground import run; "
        "run.show_together(sys.argv[2:], cwd=Path(sys.argv[1]), env={})"
    )
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "no:cacheprovider"]
    command += ["-p", "xdist", *workers.options(2), str(tmp_path)]
    mark = tmp_path.as_posix()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), *command],
        cwd=CHECKOUT,
        env={**os.environ, **BARE, "PYTHONPATH": str(CHECKOUT), MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert wait_for(lambda: sum("sleep 600" in one for one in marked(mark)) == 2)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode != 0
    assert marked(mark) == []
