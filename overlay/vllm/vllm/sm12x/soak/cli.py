# SPDX-License-Identifier: Apache-2.0
"""The order of it all: find out, ask, judge, write."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from .asking.phases import Run, judged, require
from .asking.prompts import notes_chars
from .asking.records import Phase
from .errors import INTERRUPTED, RIGHT, WRONG, SoakError
from .judging.judge import Verdict, judge
from .options import Options, read
from .server.client import Client, read_address
from .server.discover import discover
from .writing import page, report
from .writing.figures import figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = read(arguments)
    for name in ("SIGTERM", "SIGHUP"):
        # A second Ctrl-C by another name, so that what was found is written down. What is ignored
        # stays so: nohup means it.
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, _interrupt)
    try:
        return soak(options)
    except SoakError as error:
        print(f"soak: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("soak: interrupted before anything was compared", file=sys.stderr)
        return INTERRUPTED


def soak(options: Options) -> int:
    """Ask a server and write down what came of it; returns the exit code. Raises SoakError."""
    require(options.plan)
    key = os.environ.get(options.key_name) or None
    client = Client(read_address(options.url), key=key, verify=options.verify)
    progress = _Progress(options.quiet)
    server = discover(
        client,
        model=options.model,
        endpoint=options.endpoint,
        context=options.context,
        extra=options.extra,
        patience_s=options.plan.first_s,
        tell=progress.say,
    )
    notes_chars(server, max(options.plan.answer_tokens, options.plan.count_tokens))
    progress.say(
        f"{server.endpoint.value}, context {server.context} tokens ({server.context_from})"
    )
    run = Run(
        client=client, server=server, plan=options.plan, tell=progress.step, spent=client.asked
    )
    interrupted = False
    try:
        run.go()
    except KeyboardInterrupt:
        interrupted = True
        run.stop()
    progress.end()
    records = judged(list(run.records))
    judgement = judge(records, server.endpoint, options.compare)
    result = report.Result(
        server=server,
        plan=options.plan,
        judgement=judgement,
        figures=figures(records),
        records=tuple(records),
        requests=client.asked,
        seconds=run.seconds,
        interrupted=interrupted,
        hung=run.hung,
    )
    write(result, options)
    if judgement.verdict is Verdict.WRONG:
        return WRONG
    return INTERRUPTED if interrupted else RIGHT


def write(result: report.Result, options: Options) -> None:
    """Write the text or the document, and the page. Raises SoakError if the page can't be."""
    if options.json:
        print(json.dumps(report.document(result)), flush=True)
    else:
        print(report.text(result), flush=True)
    if options.html is not None:
        try:
            Path(options.html).write_text(page.page(result), encoding="utf-8")
        except OSError as error:
            raise SoakError(f"{options.html} can't be written: {error}") from None
        print(f"soak: wrote {options.html}", file=sys.stderr)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Progress:
    """Lines on stderr; on a terminal the last one is written over."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.terminal = quiet, sys.stderr.isatty()
        self.started = self.said = time.monotonic()
        self.phase: Phase | None = None

    def say(self, text: str) -> None:
        if not self.quiet:
            print(f"soak: {text}", file=sys.stderr, flush=True)

    def step(self, phase: Phase, done: int, total: int) -> None:
        now = time.monotonic()
        rare = not self.terminal and now - self.said < 10.0 and phase is self.phase
        if self.quiet or (rare and done < total):
            return
        self.said, self.phase = now, phase
        line = f"soak: {now - self.started:6.0f} s  {phase.value:6} {done} of {total}"
        print(f"\r{line}   " if self.terminal else line, end="" if self.terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def end(self) -> None:
        if self.terminal and not self.quiet:
            print(file=sys.stderr)
