# SPDX-License-Identifier: Apache-2.0
"""A module imported from a mutated text, in this process and in those that a test starts."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).resolve().parents[3]
# Read by processes that tests start: what to import mutated, or whose lines to note.
MUTANT, MEASURE, TEST = "SM12X_MUTANT", "COVERAGE_PROCESS_START", "SM12X_MEASURED_TEST"
SITE = f"""\
import os, sys
if "{MUTANT}" in os.environ:
    sys.path.insert(0, {str(ROOT)!r})
    from benchmarks.mutants.worker.mutated import import_mutated
    sys.path.remove({str(ROOT)!r})
    import_mutated(*os.environ["{MUTANT}"].split(os.pathsep))
elif "{MEASURE}" in os.environ:
    import coverage
    coverage.process_startup()
"""
# What `python -c` is given to be the worker: its own folder is on no path.
START = f"""\
import sys
sys.path[0] = {str(ROOT)!r}
from benchmarks.mutants.worker.main import main
del sys.path[0]
main()
"""


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
