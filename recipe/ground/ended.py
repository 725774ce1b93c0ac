# SPDX-License-Identifier: Apache-2.0
"""How a command ended: well, with a status that means something, or by a signal."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from recipe.ground.errors import KILLED, MachineError, RecipeError
from recipe.ground.secret import hidden

# A shell adds this to a signal's number when it says how a command ended.
SHELL_SAYS = 128
# How much of what a command said stands in an error.
SAID = 600


class CommandFailed(MachineError):
    """A command ended with a non-zero status; the caller says what that means, if it knows."""

    def __init__(
        self, args: Sequence[str], returncode: int, stderr: str, stdout: bytes = b""
    ) -> None:
        said = "; ".join(line.strip() for line in stderr.splitlines() if line.strip())
        super().__init__(
            f"{named(args)} ended with {returncode}" + (f": {said[:SAID]}" if said else ""),
            means="Nothing was concluded from it, and nothing is kept of it.",
            next="python build.py doctor",
        )
        self.command = hidden(shlex.join(args))
        self.returncode = returncode
        self.stderr = hidden(stderr)
        self.stdout = stdout


class Killed(RecipeError):
    """A command was ended by a signal: what it had said until then is no answer to anything."""

    exit_code = KILLED

    def __init__(self, args: Sequence[str], number: int) -> None:
        super().__init__(
            f"{named(args)} was killed by {signal_name(number)}",
            means="What it had said until then is no answer: nothing was concluded from it, and "
            "nothing is kept of it. If nobody ended it, memory may have run out.",
            next="run the same command again; dmesg says whether the system ended it",
        )
        self.signal = number


@contextmanager
def understood(what: str) -> Iterator[None]:
    """MachineError where the block can't read what a command said: it was cut short, or is new."""
    try:
        yield
    except (ValueError, LookupError, TypeError) as error:
        raise MachineError(
            f"{what} said something that can't be read: {ascii(str(error))[1:-1][:200]}",
            means="Its output was cut short, or its version says it in another way. Nothing was "
            "concluded from it, and nothing is kept of it.",
            next="python build.py doctor",
        ) from None


def named(args: Sequence[str]) -> str:
    """A command for a sentence: its program, and for git what it was to do."""
    words = list(args)
    while words and words[0] == "-c":
        del words[:2]
    program = Path(words[0]).name
    if program != "git":
        return program
    rest = iter(words[1:])
    for word in rest:
        if word in ("-c", "-C"):
            next(rest, None)
        elif not word.startswith("-"):
            return f"git {word}"
    return program


def signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def check_alive(args: Sequence[str], status: int) -> int:
    """The status, if it is one: Killed for what Python or a shell says of a signal.

    129 isn't taken for one, since git says so of a wrong option.
    """
    if status < 0:
        raise Killed(args, -status)
    if SHELL_SAYS + signal.SIGINT <= status <= SHELL_SAYS + signal.SIGSYS:
        raise Killed(args, status - SHELL_SAYS)
    return status
