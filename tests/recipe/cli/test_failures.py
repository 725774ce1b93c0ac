# SPDX-License-Identifier: Apache-2.0
"""Whatever goes wrong is told with its exit code and what to type; nothing leaves a traceback."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from recipe.cli import failure, main
from recipe.cli.verbs import VERBS
from recipe.ground.errors import ConfigError
from recipe.ground.run import CommandFailed, Killed
from tests.recipe.world import Done, World

NUMBERS = sorted(failure.REFUSALS)


def shell(world: World, line: str) -> Done:
    done = subprocess.run(
        ["bash", "-c", line.replace("RECIPE", f"{sys.executable} -m recipe")],
        cwd=world.root,
        env=world.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(status=done.returncode, out=done.stdout, err=done.stderr)


@pytest.mark.parametrize("number", [*NUMBERS, errno.ENOSPC, errno.ENAMETOOLONG])
def test_what_the_system_refuses_is_explained(number: int, tmp_path: Path) -> None:
    error = OSError(number, os.strerror(number), str(tmp_path / "cache" / "x"))
    places = {failure.CACHE_NEXT: tmp_path / "cache", "--out DIR": tmp_path}
    told = failure.explained(error, places)
    assert told is not None
    assert told.exit_code in (2, 8)
    assert told.what
    assert told.next
    if number not in (errno.ENOSPC, errno.ENAMETOOLONG):
        assert told.means
        assert "SM12X_CACHE" in told.next
    elsewhere = failure.explained(OSError(number, "no", "/elsewhere"), places)
    assert elsewhere is not None
    assert "SM12X_CACHE=DIR" not in elsewhere.next or number == errno.ENOSPC


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 8),
        (RecursionError(), 2),
        (KeyboardInterrupt(), 130),
        (ConfigError("x"), 2),
        (CommandFailed(["git", "-c", "a=b", "gc"], 128, "fatal: no"), 8),
        (Killed(["git", "-C", "x", "apply"], 9), 9),
        (UnicodeDecodeError("utf-8", b"ab\xff", 2, 3, "invalid"), 2),
    ],
)
def test_what_is_known_has_its_exit_code(error: BaseException, code: int) -> None:
    told = failure.explained(error, {})
    assert told is not None
    assert told.exit_code == code


def test_what_nobody_foresaw_is_reported_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SM12X_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_v3rysecret")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:pa55word@host/simple")

    def broken(arguments: list[str]) -> None:
        raise LookupError("http://bot:T0KEN@host said hf_v3rysecret")

    monkeypatch.setattr(main, "parse", broken)

    assert main.main(["plan", "--source", "http://bot:T0KEN@host/x.git"]) == 1

    said = capsys.readouterr().err
    assert "nobody foresaw this: LookupError" in said
    assert "Traceback" not in said
    (report,) = (tmp_path / "reports").iterdir()
    assert str(report) in said
    text = report.read_text(encoding="utf-8")
    assert "in broken" in text
    assert "plan --source" in text
    for secret in ("T0KEN", "hf_v3rysecret", "pa55word"):
        assert secret not in text
    assert "T0KEN" not in said


def test_a_report_goes_where_there_is_room_for_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folders = [tmp_path / "file" / "reports", tmp_path / ("x" * 300), tmp_path / "good"]
    written = failure.write_report("text", folders)
    assert written is not None
    assert written.parent == tmp_path / "good"


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("bases.toml", b"schema = 1\nx = '\xff'\n", "bases.toml:2: byte 0xff"),
        ("bases.toml", b"schema = 1\n[[base\n", "bases.toml: "),
        ("bases.toml", b"schema = 1\nrevision = 1\nbase = 'x'\n", "bases.toml: base is not"),
        ("bases.toml", b"schema = 1\nrevision = 1\nbase = [1]\n", "bases.toml: base is not"),
        ("bases.toml", b"x = " + b"[" * 100_000, "bases.toml: "),
        ("bases.toml", b"\0", "bases.toml:1: a NUL"),
        ("bases.toml", b"", "bases.toml: schema None"),
        ("series.txt", b"# ok\nvllm/\xe9.patch\n", "series.txt:2: byte 0xe9"),
        ("series.txt", b"vllm/x\0.patch\n", "series.txt:1: a NUL"),
        (".rebase/state.json", b"[" * 100_000, "state.json can't be read"),
        (".rebase/state.json", b"\xff", "state.json can't be read"),
        (".rebase/state.json", b"[]", "state.json can't be read"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(
    world: World, name: str, content: bytes, where: str
) -> None:
    path = world.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    verb = ["rebase", "--continue"] if name.startswith(".") else ["plan"]
    done = world.run(*verb)
    assert done.status == 2, done.err
    assert where in done.err
    assert done.next
    assert "Traceback" not in done.err


ARGUMENTS = {
    "apply": ["--tree", "tree"],
    "export": ["--quilt", "quilt"],
    "rebase": ["--onto", "v9.1.0", "--from", "v9.1.0"],
    "new": ["topic", "--tree", "tree"],
    "bisect": ["--test", "true"],
    "audit": ["bases.toml"],
    "test": ["--step", "format"],
    "build": ["--no-test"],
}


@pytest.mark.parametrize("name", [name for name in VERBS if name != "test"])
@pytest.mark.parametrize("cache", ["/proc/x", "/dev/null", "x" * 300, "."])
def test_no_verb_ends_in_a_traceback_for_its_cache(world: World, name: str, cache: str) -> None:
    if cache == ".":
        (world.root / "locks").touch()
    place = Path(cache) if cache.startswith("/") else world.root / cache
    done = replace(world, cache=place).run(name, *ARGUMENTS.get(name, []))
    assert "Traceback" not in done.err
    assert "nobody foresaw" not in done.err
    assert done.status in (0, 2, 6, 8), done.err


@pytest.mark.parametrize("out", ["/proc/x", "/dev/null/x", "x" * 250 + "/" + "y" * 300])
def test_an_output_folder_that_cannot_be_is_said_first(world: World, out: str) -> None:
    done = world.run("build", "--no-test", "--out", out)
    assert done.status == 2, done.err
    assert done.next == "name another folder with --out"
    assert world.index.asked == []


def test_a_reader_that_has_seen_enough_is_no_error(world: World) -> None:
    done = shell(world, "RECIPE bases --json | head -c 10; exit ${PIPESTATUS[0]}")
    assert done.status in (0, 130)
    assert "Broken pipe" not in done.err
    assert "Traceback" not in done.err
    assert "Traceback" not in shell(world, "RECIPE bases >&-").err


def test_a_full_output_is_said(world: World) -> None:
    done = shell(world, "RECIPE bases --json >/dev/full")
    assert done.status == 8
    assert "no room left on the disk" in done.err
    assert "Traceback" not in done.err
    assert "Exception ignored" not in done.err


def test_a_name_that_the_terminal_cannot_show_is_shown_all_the_same(world: World) -> None:
    text = (world.root / "bases.toml").read_text(encoding="utf-8")
    changed = text.replace('torch = "2.11.0"', 'torch = "2.11.0\u00e9"')
    (world.root / "bases.toml").write_text(changed, encoding="utf-8")
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = world.run("bases", env=env)
    assert done.status == 0, done.err
    assert "2.11.0\\xe9" in done.out


def test_too_little_memory_is_said(world: World) -> None:
    done = shell(world, "ulimit -v 400000; RECIPE plan")
    assert "Traceback" not in done.err
    assert done.status in (0, 8, 9), done.err


@pytest.mark.parametrize("moment", [number * 0.06 for number in range(9)])
def test_ctrl_c_leaves_no_traceback_from_the_first_moment(world: World, moment: float) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "recipe", "plan"],
        cwd=world.root,
        env=world.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As build.py hands over: Ctrl-C waits until it can be answered.
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}),
    )
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert "Traceback" not in err, err
    # Python ends itself by the signal where it met it in code made from text; a shell says 130.
    assert process.returncode in (0, 130, -signal.SIGINT), err
