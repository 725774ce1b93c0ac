# SPDX-License-Identifier: Apache-2.0
"""The command line: what is typed, what is answered, and what becomes of an error."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe.cli.failure import CACHE_NEXT, explained, unforeseen
from recipe.cli.usage import DescribedHelp, Parser, retyped
from recipe.cli.verbs import VERBS
from recipe.ground.errors import INTERRUPTED, UsageError
from recipe.ground.log import say
from recipe.ground.project import open_project
from recipe.ground.secret import hidden

DESCRIPTION = """\
From a vLLM release tag to a tested SM12x wheel. Options without a verb are build's:

  python build.py --base v0.33.0 --arch 12.1      a tested wheel in dist/
  python build.py plan --base v0.33.0             what that would do, and why
  python build.py rebase --onto v0.34.0           the next release
"""
EPILOG = """\
exit codes: 0 done; 1 a fault of the recipe; 2 usage or config; 3 source missing or hash mismatch;
4 a patch doesn't apply; 5 a compile failed; 6 audit; 7 tests; 8 this machine lacks something;
9 a command that it ran was killed; 130 interrupted
"""


def main(arguments: Sequence[str]) -> int:
    """The exit code. Whatever goes wrong is told; nothing leaves a traceback."""
    options: argparse.Namespace | None = None
    try:
        end_as_interrupted()
        if isinstance(sys.stdout, io.TextIOWrapper):  # a name may not fit the caller's encoding
            sys.stdout.reconfigure(errors="backslashreplace")
        options = parse(list(arguments))
        document = options.run(options, open_project())
        status = int(document.pop("exit_code", 0))
        if options.json:
            emit(document)
        flush()
    except SystemExit:
        raise
    except BaseException as error:
        return failed(error, options, arguments)
    return status


def failed(
    error: BaseException, options: argparse.Namespace | None, arguments: Sequence[str]
) -> int:
    """Tell a person and, if it was asked for, a program what went wrong; the exit code."""
    as_json = options.json if options is not None else "--json" in arguments
    if isinstance(error, BrokenPipeError):  # whoever read our output has ended
        close_output()
        return INTERRUPTED
    places = named_places(options)
    told = explained(error, places)
    if told is None:
        told = unforeseen(error, arguments, [place / "reports" for place in places.values()][:1])
    if isinstance(error, UsageError) and (again := retyped(error, arguments)):
        told = replace(told, next=again)
    try:
        say(f"\n{told.what}" if told.exit_code == INTERRUPTED else told.text)
        if as_json:
            words = {"what": hidden(told.what), "means": hidden(told.means)}
            answer = {"exit_code": told.exit_code, **words, "next": hidden(told.next)}
            emit({"error": answer})
        flush()
    except (OSError, ValueError):
        close_output()
    return told.exit_code


def named_places(options: argparse.Namespace | None) -> dict[str, Path]:
    """The cache and the folders that options name, by the way to name another one."""
    found: dict[str, Path] = {}
    with suppress(Exception):
        found[CACHE_NEXT] = open_project().cache
        found |= {
            f"--{name.replace('_', '-')} DIR": Path(value).absolute()
            for name, value in vars(options or argparse.Namespace()).items()
            if name in ("git", "html", "out", "quilt", "tree") and isinstance(value, str | Path)
        }
    return found


def flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def close_output() -> None:
    """Let Python write what is left at its exit to nowhere: it would fail once more."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                os.dup2(nowhere, stream.fileno())


def end_as_interrupted() -> None:
    """Take what CI and a closed terminal send as Ctrl-C: what we started is ended, too.

    One that the caller has us ignore (nohup) stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def emit(document: dict[str, Any]) -> None:
    print(hidden(json.dumps({"schema": 1, **document}, indent=1)))


def parse(arguments: list[str]) -> argparse.Namespace:
    """What was asked for; UsageError where that isn't clear, SystemExit after help."""
    parser = Parser(
        prog="build.py", description=DESCRIPTION, epilog=EPILOG, formatter_class=DescribedHelp
    )
    parser.add_argument("--version", action=Version, help="say what this is, and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, add in VERBS.items():
        add(verbs, name)
    if not arguments:
        parser.print_help()
        raise SystemExit(UsageError.exit_code)
    # Without a verb only options may come: a misspelled verb mustn't start a build.
    if arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        arguments.insert(0, "build")
    options, strays = parser.parse_known_args(arguments)
    if strays:
        raise verbs.choices[options.verb].strays(strays)
    return options


class Version(argparse.Action):
    """Prints the version of the recipe, of what it works on, and of its Python."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, nargs=0, default=argparse.SUPPRESS)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from recipe.cli.version import version

        print(version(open_project()))
        parser.exit()
