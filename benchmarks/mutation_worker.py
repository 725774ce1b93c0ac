# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/mutation.py runs in a wheel's test environment: it tries mutants on tests.

`measure` runs the tests once and notes which test runs which line, and how long each takes.
`serve` collects the tests once, with all that they import; then each line of its input is a mutant,
tried in a fork of that process, so that nothing is imported or collected again. A mutated function
gets its code in place, which everybody who holds the function sees; a module that a test imports
later is imported mutated. A mutant outside of functions (a constant, a default, a decorator) has
taken effect at import: its tests are collected anew, in a fork made before any was.

Processes that a test starts import the mutated module too, by a `sitecustomize` on their path.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.util
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
# Read by processes that tests start: what to import mutated, or whose lines to note.
MUTANT, MEASURE, TEST = "SM12X_MUTANT", "COVERAGE_PROCESS_START", "SM12X_MEASURED_TEST"
SITE = f"""\
import os, sys
if "{MUTANT}" in os.environ:
    sys.path.insert(0, {str(HERE)!r})
    import mutation_worker
    sys.path.remove({str(HERE)!r})
    mutation_worker.import_mutated(*os.environ["{MUTANT}"].split(os.pathsep))
elif "{MEASURE}" in os.environ:
    import coverage
    coverage.process_startup()
"""
NEW_LOCALS = 0x2  # CO_NEWLOCALS: a function has it, a module's and a class's body don't
AT_IMPORT = "takes effect at import"
PLAIN = (bool, int, float, str, bytes, tuple, list, dict, frozenset, set, Path)
MEMORY = 8 << 30  # a mutant that allocates without end takes no more from the machine


class Mutated(SourceFileLoader):
    """Loads a module from a mutated text, under the path of the true one."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        # Never from the bytecode of the true text.
        return compiled(self._text, self.path)


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module mutated; all others are left to the finders after it."""

    def __init__(self, module: str, text: str) -> None:
        self._module, self._text = module, text

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == self._module else None
        if spec is None or spec.origin is None:
            return None
        return importlib.util.spec_from_file_location(
            name,
            spec.origin,
            loader=Mutated(name, spec.origin, self._text),
            submodule_search_locations=spec.submodule_search_locations,
        )


def import_mutated(module: str, text: str) -> None:
    """From now on `module` is imported from the file `text`."""
    sys.meta_path.insert(0, Finder(module, text))


def compiled(text: str, path: str) -> CodeType:
    """The code of the file `text`, which says of itself that it is `path`."""
    return compile(Path(text).read_bytes(), path, "exec", dont_inherit=True)


def is_function(const: object) -> bool:
    return isinstance(const, CodeType) and bool(const.co_flags & NEW_LOCALS)


def functions_of(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """The code of a module's functions and methods, not of functions within them."""
    found: dict[tuple[str, int], CodeType] = {}
    for const in code.co_consts:
        if not isinstance(const, CodeType):
            continue
        if is_function(const):
            found[const.co_qualname, const.co_firstlineno] = const
        else:
            found |= functions_of(const)
    return found


def at_import(code: CodeType) -> tuple[Any, ...]:
    """What runs at import: bodies of the module and its classes, without the functions' own."""
    consts = []
    for const in code.co_consts:
        if is_function(const):
            consts.append(("function", const.co_qualname))
        elif isinstance(const, CodeType):
            consts.append(("class", at_import(const)))
        else:
            consts.append((type(const).__name__, repr(const)))
    return code.co_code, consts, code.co_names


def changed(true: CodeType, mutated: CodeType) -> tuple[CodeType, CodeType] | None:
    """The one function that a mutant changes, before and after; None if import itself changes."""
    if at_import(true) != at_import(mutated):
        return None
    before, after = functions_of(true), functions_of(mutated)
    differing = [key for key in before if before[key] != after.get(key)]
    if len(differing) != 1 or differing[0] not in after:
        return None
    return before[differing[0]], after[differing[0]]


class Loaded:
    """The package's functions in this process, by the code they run."""

    def __init__(self, package: str) -> None:
        self._found: dict[tuple[str, str, int], list[FunctionType]] = {}
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType) and package in thing.__code__.co_filename:
                self._found.setdefault(self._key(thing.__code__), []).append(thing)

    def put(self, before: CodeType, after: CodeType) -> bool:
        """Give the functions that run `before` the code `after`; False if that can't be done."""
        found = self._found.get(self._key(before), [])
        try:
            for function in found:
                function.__code__ = after
        except ValueError:  # it closes over other variables
            return False
        return bool(found)

    @staticmethod
    def _key(code: CodeType) -> tuple[str, str, int]:
        return os.path.realpath(code.co_filename), code.co_qualname, code.co_firstlineno


def put_values(module: ModuleType, code: CodeType) -> bool:
    """Give a loaded module, and those that import from it, the constants that `code` makes.

    Said to be done only if there is such a difference. What was made of a constant elsewhere stays
    as it was, so a mutant that survives this must be imported to be believed.
    """
    fresh = ModuleType(module.__name__)
    known = ("__file__", "__package__", "__spec__", "__path__")
    vars(fresh).update({name: vars(module)[name] for name in known if name in vars(module)})
    exec(code, vars(fresh))
    changed = {}
    for name, value in vars(fresh).items():
        before = vars(module).get(name)
        if isinstance(before, PLAIN) and isinstance(value, PLAIN) and before != value:
            changed[name] = before, value
    for name, (before, value) in changed.items():
        for holder in list(sys.modules.values()):
            if isinstance(holder, ModuleType) and vars(holder).get(name) is before:
                setattr(holder, name, value)
    return bool(changed)


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


def forked(work: Callable[[], str], limit: float) -> tuple[str, str]:
    """What `work` says in a fork of this process: the test that fails, or nothing.

    "died" if the fork ends without a word, "timed out" after `limit` seconds. Whatever it started
    is ended with it.
    """
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.close(out)
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            try:
                said = work()
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"[:1000]
            os.write(into, b"!" + said.encode())
        finally:
            os._exit(0)
    os.close(into)
    ready, _, _ = select.select([out], [], [], limit)
    said = os.read(out, 4096).decode() if ready else ""
    os.close(out)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)  # it may have no group of its own yet
    os.waitpid(child, 0)
    if not ready:
        return "timed out", ""
    if not said:
        return "killed", "the process died"
    return ("killed", said[1:]) if said[1:] else ("survived", "")


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


def become(request: Request) -> None:
    """Import the mutant from now on, here and in processes that are started here."""
    if request.text != request.path:
        import_mutated(request.module, request.text)
        os.environ[MUTANT] = os.pathsep.join([request.module, request.text])


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


class Meter:
    """pytest's side of `measure`: whose lines are noted, and how long each test takes."""

    def __init__(self, coverage: Any) -> None:
        self._coverage = coverage
        self.seconds: dict[str, float] = {}
        self.unfit: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)
        os.environ[TEST] = nodeid

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call":  # what a fixture takes falls to whom it is made for
            self.seconds[report.nodeid] = report.duration
        if not report.passed:
            self.unfit.add(report.nodeid)


def measure(folder: Path, rooms: Sequence[str], options: Sequence[str]) -> None:
    """Write folder/fresh.json: seconds of each test that passes, and the tests of each line."""
    import coverage

    config = folder / "coveragerc"
    data = folder / "coverage"
    config.write_text(
        f"[run]\nparallel = true\ndata_file = {data}\ncontext = ${{{TEST}}}\n"
        "source =\n" + "".join(f"    {room}\n" for room in rooms),
        encoding="utf-8",
    )
    os.environ[MEASURE] = str(config)
    mine = coverage.Coverage(data_file=str(data), data_suffix=True, source=list(rooms))
    mine.start()
    meter = Meter(mine)
    run_pytest(options, meter)
    mine.stop()
    mine.save()
    mine.combine([str(folder)])
    found = mine.get_data()
    lines = {
        path: {
            line: [test for test in tests if test in meter.seconds and test not in meter.unfit]
            for line, tests in found.contexts_by_lineno(path).items()
        }
        for path in found.measured_files()
    }
    seconds = {test: took for test, took in meter.seconds.items() if test not in meter.unfit}
    text = json.dumps({"seconds": seconds, "unfit": sorted(meter.unfit), "lines": lines})
    (folder / "fresh.json").write_text(text, encoding="utf-8")


def main() -> None:
    asked = json.loads(sys.argv[1])
    os.environ.pop(MUTANT, None)
    match asked.pop("do"):
        case "measure":
            measure(Path(asked["folder"]), asked["rooms"], asked["options"])
        case "serve":
            serve(**asked)


if __name__ == "__main__":
    main()
