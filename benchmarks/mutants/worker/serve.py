# SPDX-License-Identifier: Apache-2.0
"""Tries mutants: tests are collected once, and each mutant runs some of them in a fork.

Each line of standard input is a mutant; nothing is imported or collected again for it. A mutated
function gets its code in place, which everybody who holds the function sees; a module that a test
imports later is imported mutated. A mutant outside of functions (a constant, a default, a
decorator) has taken effect at import: its tests are collected anew, in a fork made before any was.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.mutants.worker.forks import forked
from benchmarks.mutants.worker.mutated import compiled
from benchmarks.mutants.worker.replaced import Loaded, changed, put_values
from benchmarks.mutants.worker.tests import (
    Plugin,
    Request,
    SessionAlone,
    become,
    run_pytest,
    run_test,
)

AT_IMPORT = "takes effect at import"


class Warm:
    """Tries mutants of functions, in a process that has collected all tests."""

    def __init__(self, options: Sequence[str], package: str, before: Sequence[str]) -> None:
        down, self._requests = os.pipe()
        self._answers, up = os.pipe()
        if os.fork() == 0:
            os.close(self._requests)
            os.close(self._answers)
            self._package, self._before = package, before
            self._in, self._out = os.fdopen(down), os.fdopen(up, "w")
            self._plugin = Plugin(self._loop)
            status = run_pytest(options, self._plugin)
            os._exit(status or (1 if self._plugin.failed else 0))
        os.close(down)
        os.close(up)
        self._to, self._from = os.fdopen(self._requests, "w"), os.fdopen(self._answers)
        line = self._from.readline()
        if not line:
            raise SystemExit("the tests can't be collected: see the lines above")
        self.tests: list[str] = json.loads(line)

    def tried(self, request: Request) -> tuple[str, str] | None:
        """The outcome and the test that saw the mutant; None if it takes effect at import."""
        print(json.dumps(vars(request)), file=self._to, flush=True)
        answer = json.loads(self._from.readline())
        return (answer[0], answer[1]) if answer else None

    def _loop(self, session: Any) -> None:
        if session.testsfailed:
            return  # a file that can't be collected would let mutants live
        items = {item.nodeid: item for item in session.items}
        for test in self._before:
            # What it imports and what its session's fixtures make is there for all mutants then.
            run_test(items[test], SessionAlone(session))
        self._plugin.failed = ""
        loaded = Loaded(self._package)
        gc.collect()
        gc.freeze()  # a fork's collector doesn't touch, and so copy, what was there before
        print(json.dumps(list(items)), file=self._out, flush=True)
        for line in self._in:
            request = Request(**json.loads(line))
            answer = self._answer(request, loaded, items)
            print(json.dumps(answer), file=self._out, flush=True)
            base = session.config._tmp_path_factory.getbasetemp()
            for left in base.iterdir():
                shutil.rmtree(left, ignore_errors=True)

    def _answer(
        self, request: Request, loaded: Loaded, items: dict[str, Any]
    ) -> tuple[str, str] | None:
        true = compiled(request.path, request.path)
        mutated = compiled(request.text, request.path)
        pair = changed(true, mutated)
        module = sys.modules.get(request.module)

        def work() -> str:
            become(request)
            if module is not None and true != mutated:
                done = loaded.put(*pair) if pair else put_values(module, mutated)
                if not done:
                    return AT_IMPORT
            chosen = [items[test] for test in request.tests if test in items]
            for item, following in zip(chosen, [*chosen[1:], None], strict=True):
                run_test(item, following)
                if self._plugin.failed:
                    break
            return self._plugin.failed

        outcome = forked(work, request.limit)
        if outcome[1] == AT_IMPORT or (module and not pair and outcome[0] == "survived"):
            return None if true != mutated else outcome
        return outcome


def tried_cold(request: Request, options: Sequence[str]) -> tuple[str, str]:
    """Collect the tests of the mutant anew and run them."""

    def work() -> str:
        become(request)
        plugin = Plugin()
        # pytest tells an empty selection by its status, and that is no test that failed.
        status = run_pytest([*options, "-x", *request.tests], plugin)
        return plugin.failed or ("" if status in (0, 5) else f"pytest ended with {status}")

    return forked(work, request.limit)


def serve(
    *,
    package: str,
    options: Sequence[str],
    files: Sequence[str],
    preload: Sequence[str],
    before: Sequence[str],
) -> None:
    """Answer one line for each line of standard input, see Request, until it ends.

    `preload` are modules to import before all else, `before` tests to run before the first mutant.
    """
    out = os.fdopen(os.dup(1), "w")
    for name in preload:
        importlib.import_module(name)
    os.dup2(2, 1)  # pytest's own words don't go among the answers
    warm = Warm([*options, *files], package, before)
    print(json.dumps({"tests": warm.tests}), file=out, flush=True)
    for line in sys.stdin:
        request = Request(**json.loads(line))
        began = time.monotonic()
        answer = warm.tried(request)
        way = "warm" if answer else "cold"
        outcome, by = answer or tried_cold(request, options)
        told = {"job": request.job, "outcome": outcome, "by": by, "way": way}
        told["seconds"] = f"{time.monotonic() - began:.2f}"
        print(json.dumps(told), file=out, flush=True)
