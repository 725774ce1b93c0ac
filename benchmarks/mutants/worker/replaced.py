# SPDX-License-Identifier: Apache-2.0
"""A mutated function or constant, put into a process that has imported the true one."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

NEW_LOCALS = 0x2  # CO_NEWLOCALS: a function has it, a module's and a class's body don't
PLAIN = (bool, int, float, str, bytes, tuple, list, dict, frozenset, set, Path)


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
