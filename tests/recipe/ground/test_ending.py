# SPDX-License-Identifier: Apache-2.0
"""What a compile started ends with the recipe, however the recipe ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.compile import whole
from recipe.ground import run
from tests.recipe.processes import MARK, marked, wait_for

ROOT = Path(__file__).resolve().parents[3]
# A leader that a signal ends at once, and what it started, as setup.py and its ninja are.
COMMAND = ["sh", "-c", "sleep 77.5 & sleep 77.5; true"]
CALLS = {
    "measured": "run.measured({command}, cwd=Path('/'), env={{}})",
    "output_together": "run.output_together({command}, cwd=Path('/'), env={{}})",
}
# Whoever runs the tests in the background may ignore signals, which is inherited.
SCRIPT = """\
import signal
from pathlib import Path
from recipe.cli import main
from recipe.ground import run
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
main.end_as_interrupted()
try:
    {call}
except KeyboardInterrupt:
    raise SystemExit(130)
"""


def start(call: str, mark: str, command: list[str]) -> subprocess.Popen[bytes]:
    """A process that runs the command by one of our functions, once all of it is there."""
    script = SCRIPT.format(call=CALLS[call].format(command=command))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), MARK: mark},
        start_new_session=True,
    )
    assert wait_for(lambda: len(sleeping(mark)) == 2)
    return process


def sleeping(mark: str) -> list[str]:
    return [command for command in marked(mark) if command == "sleep 77.5"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_command(tmp_path: Path, call: str, number: signal.Signals) -> None:
    mark = f"{tmp_path}"
    process = start(call, mark, COMMAND)

    process.send_signal(number)

    assert process.wait(10) == (-9 if number == signal.SIGKILL else 130)
    assert wait_for(lambda: marked(mark) == [], 5), marked(mark)


def test_nothing_is_left_when_the_whole_group_is_killed(tmp_path: Path) -> None:
    """A CI job's group holds the recipe and not the compilers, which have their own."""
    process = start("measured", str(tmp_path), COMMAND)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert wait_for(lambda: marked(str(tmp_path)) == [], 5), marked(str(tmp_path))


def test_nothing_is_left_of_a_command_without_a_network(tmp_path: Path) -> None:
    prefix, _ = whole.alone()
    if not prefix:
        pytest.skip("this machine allows no network namespace")
    process = start("measured", str(tmp_path), [*prefix, *COMMAND])
    process.kill()
    process.wait()
    assert wait_for(lambda: marked(str(tmp_path)) == [], 5), marked(str(tmp_path))


def test_a_command_that_ends_leaves_no_watcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path))
    took = run.measured(["sh", "-c", "exit 3"], cwd=tmp_path, env={})
    assert took.status == 3
    assert run.output_together(["echo", "said"], cwd=tmp_path, env={}) == b"said\n"
    with pytest.raises(run.CommandFailed, match="no such thing"):
        command = ["sh", "-c", "echo no such thing >&2; exit 2"]
        run.output_together(command, cwd=tmp_path, env={})
    assert marked(str(tmp_path)) == []


def test_a_signal_that_the_caller_has_ignored_stays_ignored(tmp_path: Path) -> None:
    """As nohup does; the command's own end decides."""
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    script += "from recipe.cli import main; main.end_as_interrupted()\n"
    script += "import os; os.kill(os.getpid(), signal.SIGHUP)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("said", "no_room"),
    [("as: can't write x.o: No space left on device", True), ("error: no such type", False)],
)
def test_a_full_disk_is_heard_in_what_a_command_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: str, no_room: bool
) -> None:
    took = run.measured(["sh", "-c", f'echo "{said}" >&2; exit 1'], cwd=tmp_path, env={})
    assert (took.status, took.no_room) == (1, no_room)
    assert f"{said}\n" in capsys.readouterr().err


def test_a_server_that_keeps_the_pipe_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LISTENING_SECONDS", 0.2)
    took = run.measured(["sh", "-c", "sleep 7.25 & exit 0"], cwd=tmp_path, env={})
    assert took.seconds < 5
