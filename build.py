#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""From a vLLM release tag to a tested SM12x wheel: python build.py --base v0.33.0 --arch 12.1

This file needs the standard library only. It makes the recipe's own environment (locked
requirements with hashes) in ``.venv/`` beside it, once per lock file and Python, and hands over to
``recipe/`` there. ``uv run build.py`` does the same.

The name shadows the PyPA package ``build`` for a Python started in this folder: run that one
from elsewhere.
"""

from __future__ import annotations

try:
    import hashlib
    import os
    import signal
    import sys
    from collections.abc import Mapping
    from pathlib import Path
except KeyboardInterrupt:
    raise SystemExit(130) from None

ROOT = Path(__file__).resolve().parent
# Exit codes as recipe/ground/errors.py has them: a fault of ours, a machine that lacks something.
UNFORESEEN, ENVIRONMENT_ERROR, INTERRUPTED = 1, 8, 130
DONE = "complete"
# Of Python's variables those that say how text is read and written; what else stays is listed in
# recipe/ground/environments/callers.py.
PYTHON_TEXT = {"PYTHONCOERCECLOCALE", "PYTHONIOENCODING", "PYTHONUNBUFFERED", "PYTHONUTF8"}
# Whether what a lock names is there, in its version, with every file. Prints the folders of its
# metadata, by which the next start sees at once that the environment isn't empty.
CHECK = """\
import sys
from importlib.metadata import distribution
from pathlib import Path
from packaging.requirements import Requirement
for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
    if not line[:1].isalnum():
        continue
    wanted = Requirement(line.rstrip(" \\\\"))
    if wanted.marker and not wanted.marker.evaluate():
        continue
    found = distribution(wanted.name)
    folder = Path(found.locate_file(""))
    if not wanted.specifier.contains(found.version, prereleases=True):
        raise SystemExit(f"{wanted.name} {found.version} is there, wanted is {wanted.specifier}")
    if not folder.is_relative_to(sys.prefix):
        raise SystemExit(f"{wanted.name} is in {folder}")
    for file in found.files or ():
        if file.suffix != ".pyc" and not Path(file.locate()).exists():
            raise SystemExit(f"{wanted.name} lacks {file}")
    print(found._path.name)
"""


def main() -> int:
    if sys.version_info < (3, 11):
        return fail(
            f"this is Python {sys.version.split()[0]}; the recipe needs 3.11 or newer",
            "python3.11 build.py ...",
        )
    lock_name = "test.lock" if first_verb(sys.argv[1:]) == "test" else "recipe.lock"
    lock = ROOT / "requirements" / lock_name
    python = environment(lock)
    if python is None:
        return ENVIRONMENT_ERROR
    env = plain(os.environ) | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    # Compiled modules make a second start quick; recipe/__main__.py keeps these from its children.
    env["PYTHONPYCACHEPREFIX"] = str(ROOT / ".venv" / "pycache")
    # Ctrl-C waits until recipe/__main__.py can answer it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        os.execve(python, [str(python), "-m", "recipe", *sys.argv[1:]], env)
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return fail(
            f"{python} can't be started: {error.strerror}",
            f"rm -r {python.parents[1]}; if its disk is mounted noexec, use a checkout elsewhere",
        )


def plain(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what makes another Python of it."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("PYTHON") or name in PYTHON_TEXT
    }


def first_verb(arguments: list[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


def environment(lock: Path) -> Path | None:
    """The interpreter of the environment that holds what `lock` names, made if it isn't there."""
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode() + sys.prefix.encode())
    home = ROOT / ".venv" / f"{lock.stem}-{key.hexdigest()[:12]}"
    python = home / "bin" / "python"
    if is_whole(home):
        return python
    import fcntl  # only where an environment is made: a second start is to be quick

    home.parent.mkdir(exist_ok=True)
    with (home.parent / ".lock").open("w", encoding="utf-8") as guard:
        # Two first starts would otherwise install into one folder.
        fcntl.flock(guard, fcntl.LOCK_EX)
        if is_whole(home) or (python.exists() and checked(home, lock, quiet=True)):
            return python
        say(f"making the environment {home.relative_to(ROOT)} from requirements/{lock.name} (once)")
        return python if install(home, lock) else None


def is_whole(home: Path) -> bool:
    """Whether the environment was found to hold all that it should, and still has it."""
    try:
        wanted = (home / DONE).read_text(encoding="utf-8").split("\n")[:-1]
        (packages,) = (home / "lib").glob("python3*/site-packages")
        return bool(wanted) and set(wanted) <= {path.name for path in packages.iterdir()}
    except (OSError, ValueError):
        return False


def install(home: Path, lock: Path) -> bool:
    import shutil

    shutil.rmtree(home, ignore_errors=True)  # what a killed run left
    python = str(home / "bin" / "python")
    pip = [python, "-I", "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-user"]
    exactly = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(lock)]
    try:
        if (
            step([sys.executable, "-I", "-m", "venv", str(home)], {})
            and step([*pip, "install", *quiet, *exactly], index_settings(pip))
            and checked(home, lock)
        ):
            return True
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    shutil.rmtree(home, ignore_errors=True)
    return False


def checked(home: Path, lock: Path, *, quiet: bool = False) -> bool:
    """Look at what is in the environment and, if it is all that the lock names, remember it."""
    command = [str(home / "bin" / "python"), "-I", "-c", CHECK, str(lock)]
    status, out, err = heard(command, os.environ)
    if status != 0:
        if not quiet:
            why = (err.strip().splitlines() or [f"ended with {status}"])[-1]
            fail(
                f"the environment isn't what requirements/{lock.name} names: {why}",
                "look at what pip is told here: python3 -m pip config list",
            )
        return False
    part = home / f"{DONE}.{os.getpid()}"
    part.write_text(out, encoding="utf-8")
    part.replace(home / DONE)
    return True


def index_settings(pip: list[str]) -> dict[str, str]:
    """How pip reaches an index here, as variables; where it would install, and what else, not."""
    import ast
    import runpy

    callers = runpy.run_path(str(ROOT / "recipe" / "ground" / "environments" / "callers.py"))
    # What pip is told of other things may keep it from listing what it is told.
    mine = {name: value for name, value in os.environ.items() if callers["kept"](name)}
    status, out, _ = heard([*pip, "config", "list"], mine)
    if status != 0:
        say("pip's configuration files can't be read here; its variables alone are heeded")
        out = callers["pip_variables"](mine)
    found = callers["pip_settings"](out, ast.literal_eval)
    return {**found, "PIP_CONFIG_FILE": os.devnull}


def heard(command: list[str], environment: Mapping[str, str]) -> tuple[int, str, str]:
    """How a command ended, and what it said."""
    import subprocess

    finished = subprocess.run(
        command,
        env=plain(environment),
        cwd=ROOT / ".venv",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        process_group=0,  # Ctrl-C is answered by us alone
    )
    return finished.returncode, finished.stdout, finished.stderr


def step(command: list[str], settings: dict[str, str]) -> bool:
    """Run one command of an installation, echoed first; said so if it fails."""
    import subprocess

    say("+ " + " ".join(command))
    mine = {name: value for name, value in plain(os.environ).items() if name[:4] != "PIP_"}
    # Not in this folder, where ./build.py would shadow a package that pip may import. A group of
    # its own, so that Ctrl-C is answered by us alone.
    process = subprocess.Popen(
        command,
        env=mine | settings,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        cwd=ROOT / ".venv",
        process_group=0,
    )
    try:
        status = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if status != 0:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
        fail(
            f"the environment could not be made: {command[0]} {how} and nothing was left half-made",
            "mend what the lines above name (network? python3-venv?) and run it again",
        )
    return status == 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fail(what: str, command: str) -> int:
    say(f"error: {what}\n  next: {command}")
    return ENVIRONMENT_ERROR


def unforeseen(error: Exception) -> int:
    """Say so, with a file to attach to a report."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="build.py-report-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"{sys.version}\n{''.join(traceback.format_exception(error))}")
    fail(f"nobody foresaw this: {type(error).__name__}", f"report it with the file {file.name}")
    return UNFORESEEN


def guarded() -> int:
    """`main`, and an answer to whatever ends it."""
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)
        return main()
    except KeyboardInterrupt:
        say("\ninterrupted; the next run begins with what is finished")
        return INTERRUPTED
    except BrokenPipeError:
        return INTERRUPTED
    except MemoryError:
        return fail("memory ran out", "free some memory, and run it again")
    except OSError as error:
        name = error.filename or ROOT
        return fail(f"{error.strerror or error}: {name}", f"ls -ld {name}   # mend that first")
    except Exception as error:
        return unforeseen(error)


if __name__ == "__main__":
    sys.exit(guarded())
