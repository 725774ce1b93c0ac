# SPDX-License-Identifier: Apache-2.0
"""The command line: what is typed, what is answered, and what becomes of an error."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from recipe.cli.verbs import VERBS
from recipe.ground.errors import INTERRUPTED, RecipeError
from recipe.ground.log import say
from recipe.ground.project import open_project

DESCRIPTION = """\
From a vLLM release tag to a tested SM12x wheel. Without a verb, `build` is meant:

  python build.py --base v0.33.0 --arch 12.1      a tested wheel in dist/
  python build.py plan --base v0.33.0             what that would do, and why
  python build.py rebase --onto v0.34.0           the next release
"""
EPILOG = """\
exit codes: 0 done; 2 usage or config; 3 source missing or hash mismatch; 4 a patch doesn't apply;
5 a compile failed; 6 audit; 7 tests; 8 this machine lacks something; 130 interrupted
"""


def main(arguments: Sequence[str]) -> int:
    options = parse(list(arguments))
    end_as_interrupted()
    try:
        document = options.run(options, open_project())
    except RecipeError as error:
        say(str(error))
        return failed(options, error.exit_code, error.what, error.means, error.next)
    except BrokenPipeError:
        # Whoever read our output has ended; Python must not write what is left at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return INTERRUPTED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        what = f"no room left on the disk: {error.filename or ''}"
        then = "free some space, or name a larger disk: SM12X_CACHE=DIR python build.py ..."
        say(f"error: {what}\n  next: {then}")
        return failed(options, 8, what, "", then)
    except KeyboardInterrupt:
        what = "interrupted; the next run goes on from what is finished"
        say(f"\n{what}")
        return failed(options, INTERRUPTED, what, "", "")
    status = int(document.pop("exit_code", 0))
    if options.json:
        emit(document)
    return status


def end_as_interrupted() -> None:
    """Take what CI and a closed terminal send as Ctrl-C: what we started is ended, too.

    One that the caller has us ignore (nohup) stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def failed(options: argparse.Namespace, status: int, what: str, means: str, next: str) -> int:
    """The exit code, once the document says the same if one was asked for."""
    if options.json:
        emit({"error": {"exit_code": status, "what": what, "means": means, "next": next}})
    return status


def emit(document: dict[str, Any]) -> None:
    print(json.dumps({"schema": 1, **document}, indent=1))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="build.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, add in VERBS.items():
        add(verbs, name)
    asks_help = bool(arguments) and arguments[0] in ("-h", "--help")
    if not asks_help and (not arguments or arguments[0] not in VERBS) and named_option(arguments):
        arguments.insert(0, "build")
    return parser.parse_args(arguments)


def named_option(arguments: list[str]) -> bool:
    """Without a verb only options may come: a misspelled verb mustn't start a build."""
    return not arguments or arguments[0].startswith("-")
