# SPDX-License-Identifier: Apache-2.0
"""What a mutant is asked, and pytest with the first test that fails in hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.mutants.worker.mutated import MUTANT, import_mutated


@dataclass(frozen=True, kw_only=True)
class Request:
    """A mutant: its module, the true file and the mutated one, the tests to run in order.

    limit: seconds for all of them. A text that is the true file's is a run without a mutant.
    """

    job: str
    module: str
    path: str
    text: str
    tests: Sequence[str]
    limit: float


class Plugin:
    """The first test that fails; and a loop of our own in the place of pytest's, if given."""

    def __init__(self, loop: Callable[[Any], None] | None = None) -> None:
        self.loop = loop
        self.failed = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid or "collection"

    def pytest_runtestloop(self, session: Any) -> bool | None:
        if self.loop is None:
            return None
        self.loop(session)
        return True


def run_pytest(options: Sequence[str], plugin: object) -> int:
    import pytest

    return int(pytest.main([*options, "-q", "-p", "no:cacheprovider"], plugins=[plugin]))


def run_test(item: Any, following: Any) -> None:
    """Run a test; fixtures that the following one doesn't need are torn down."""
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


class SessionAlone:
    """In the place of a following test: one that needs what the session's fixtures made."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def listchain(self) -> list[Any]:
        return [self._session]


def become(request: Request) -> None:
    """Import the mutant from now on, here and in processes that are started here."""
    if request.text != request.path:
        import_mutated(request.module, request.text)
        os.environ[MUTANT] = os.pathsep.join([request.module, request.text])
