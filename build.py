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

import hashlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ENVIRONMENT_ERROR = 8  # the exit code recipe/ground/errors.py gives a machine that lacks something
DONE = "complete"


def main() -> int:  # noqa: RET503
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
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    # Compiled modules make a second start quick; recipe/__main__.py keeps these from its children.
    env["PYTHONPYCACHEPREFIX"] = str(ROOT / ".venv" / "pycache")
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env.pop("PYTHONHOME", None)
    os.execve(python, [str(python), "-m", "recipe", *sys.argv[1:]], env)


def first_verb(arguments: list[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


def environment(lock: Path) -> Path | None:
    """The interpreter of the environment that holds what `lock` names, made if it isn't there."""
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode() + sys.prefix.encode())
    home = ROOT / ".venv" / f"{lock.stem}-{key.hexdigest()[:12]}"
    python = home / "bin" / "python"
    if (home / DONE).exists():
        return python
    say(f"making the environment {home.relative_to(ROOT)} from requirements/{lock.name} (once)")
    import fcntl  # only where an environment is made: a second start is to be quick

    home.parent.mkdir(exist_ok=True)
    with (home.parent / ".lock").open("w", encoding="utf-8") as guard:
        # Two first starts would otherwise install into one folder.
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (home / DONE).exists() and not install(home, lock):
            return None
    return python


def install(home: Path, lock: Path) -> bool:
    import shutil
    import subprocess

    shutil.rmtree(home, ignore_errors=True)  # what a killed run left
    python = home / "bin" / "python"
    commands = [
        [sys.executable, "-m", "venv", str(home)],
        [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-r",
            str(lock),
        ],
    ]
    for command in commands:
        say("+ " + " ".join(command))
        # Not in this folder, where ./build.py would shadow a package that pip may import.
        finished = subprocess.run(command, stdout=sys.stderr, cwd=home.parent, check=False)
        if finished.returncode != 0:
            fail(
                f"the environment could not be made: {command[0]} ended with {finished.returncode} "
                "and nothing was left half-made",
                "mend what the lines above name (network? python3-venv?) and run it again",
            )
            shutil.rmtree(home, ignore_errors=True)
            return False
    (home / DONE).touch()
    return True


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fail(what: str, command: str) -> int:
    say(f"error: {what}\n  next: {command}")
    return ENVIRONMENT_ERROR


if __name__ == "__main__":
    sys.exit(main())
