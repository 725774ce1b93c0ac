# SPDX-License-Identifier: Apache-2.0
"""Every error class, with its exit code.

A message says what happened, what it means and what to type next. An error nobody foresaw is a bug:
its traceback goes into a report file, and the message says where that is.
"""

from __future__ import annotations


class RecipeError(Exception):
    """An error with an answer.

    what: the fact, on one line. means: what it means for the build. next: what to type.
    """

    exit_code = 1

    def __init__(self, what: str, *, means: str = "", next: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.means = means
        self.next = next

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        if self.means:
            lines.append(f"  {self.means}")
        if self.next:
            lines.append(f"  next: {self.next}")
        return "\n".join(lines)


class UsageError(RecipeError):
    """The command line asks for something that isn't there."""

    exit_code = 2


class Mistyped(UsageError):
    """A word of the command line that isn't known but is close to one that is.

    typed: the word; meant: the one to type instead.
    """

    def __init__(
        self, what: str, *, typed: str, meant: str, means: str = "", next: str = ""
    ) -> None:
        super().__init__(f"{what}; did you mean {meant}?", means=means, next=next)
        self.typed = typed
        self.meant = meant


class ConfigError(RecipeError):
    """bases.toml, series.txt, a patch header or the overlay is malformed."""

    exit_code = 2


class SourceError(RecipeError):
    """A source is missing, can't be fetched or isn't what the pins say."""

    exit_code = 3


class ApplyError(RecipeError):
    """A patch doesn't apply exactly, or an overlay file exists upstream."""

    exit_code = 4


class CompileError(RecipeError):
    """CMake or a compiler stopped."""

    exit_code = 5


class AuditError(RecipeError):
    """A wheel isn't what it says it is."""

    exit_code = 6


class TestsFailed(RecipeError):
    """The overlay's tests failed on the wheel."""

    exit_code = 7
    __test__ = False  # not a test class, whatever its name begins with


class MachineError(RecipeError):
    """This machine lacks a tool, disk, memory or a lock."""

    exit_code = 8


# A command that was run for the recipe was ended by a signal (`run.Killed`).
KILLED = 9
INTERRUPTED = 130
