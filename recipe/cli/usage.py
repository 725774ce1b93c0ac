# SPDX-License-Identifier: Apache-2.0
"""What is typed, read strictly: nothing is guessed, and what was probably meant is said."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from recipe.ground.errors import Mistyped, UsageError


class Help(argparse.HelpFormatter):
    """Help that says a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        told = action.default not in (None, False, True, [], (), argparse.SUPPRESS)
        return f"{text} (default: %(default)s)" if told and "default" not in text else text


class DescribedHelp(Help, argparse.RawDescriptionHelpFormatter):
    """The same where description and epilogue have lines of their own."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are the recipe's own, with what to type next."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", Help)
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, next=f"python {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """One of the choices, or what was probably meant: a verb, or an option's value."""
        choices = list(action.choices or ())
        if not choices or value in choices:
            return
        name = action.option_strings[-1] if action.option_strings else action.metavar
        what = f"no such {name}: {value}"
        raise mistyped(what, str(value), map(str, choices), help=f"python {self.prog} --help")

    def strays(self, words: Sequence[str]) -> UsageError:
        """What is said of words that no option and no argument of this verb takes."""
        word, asked = words[0], f"python {self.prog} --help"
        option = word.partition("=")[0]
        if not option.startswith("-"):
            return UsageError(
                f"{self.prog} takes no such argument: {shlex.join(words)}", next=asked
            )
        known = [name for name in self._option_string_actions if name.startswith("--")]
        return mistyped(f"{self.prog} has no option {option}", option, known, help=asked)


def mistyped(what: str, typed: str, known: Iterable[str], *, help: str) -> UsageError:
    """An error that offers the one of the known words that looks like what was typed."""
    known = sorted(set(known))
    close = difflib.get_close_matches(typed, known, n=1, cutoff=0.6)
    means = f"Known: {' '.join(known)}."
    if close:
        return Mistyped(what, typed=typed, meant=close[0], means=means, next=help)
    return UsageError(what, means=means, next=help)


def retyped(error: UsageError, arguments: Sequence[str]) -> str:
    """The whole command with what was meant in the place of what was typed; "" if there is none.

    A line that can be pasted: verb, base and all other options stay.
    """
    if not isinstance(error, Mistyped):
        return ""
    words = list(arguments)
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if word == error.typed:
            words[place] = error.meant
        elif equals and value == error.typed:
            words[place] = f"{name}={error.meant}"
        elif equals and name == error.typed:
            words[place] = f"{error.meant}={value}"
        else:
            continue
        return f"python build.py {shlex.join(words)}"
    return ""
