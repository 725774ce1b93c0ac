# SPDX-License-Identifier: Apache-2.0
"""What a vLLM tree takes from DeepGEMM: each name, and the shape of each call."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recipe.bases.pins import unknown

WRAPPER = "vllm/utils/deep_gemm.py"
WRAPPER_MODULE = "vllm.utils.deep_gemm"
IMPORTER = "_import_deep_gemm"
TAKES = re.compile(rf"deep_gemm import|{IMPORTER}|import ([\w.]+\.)?deep_gemm\b")
MODULES = ("deep_gemm", "vllm.third_party.deep_gemm")


@dataclass(frozen=True, kw_only=True)
class Use:
    """One place that takes a function. names: any of them will do. where: path:line.

    positional and keywords: what the call passes; None where nothing is called there.
    open: more may be passed, by * or **.
    """

    names: tuple[str, ...]
    where: str
    positional: int | None = None
    keywords: tuple[str, ...] = ()
    open: bool = False


@dataclass(frozen=True, kw_only=True)
class Forwarding:
    """A function of the wrapper that hands its arguments on as they come.

    added: keywords it adds. dropped: keywords it keeps for itself.
    """

    names: tuple[str, ...]
    added: tuple[str, ...]
    dropped: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Wrapper:
    """What vllm/utils/deep_gemm.py takes by itself, and what it hands on for its callers."""

    uses: tuple[Use, ...]
    forwarding: Mapping[str, Forwarding] = field(default_factory=dict)


def uses_in(paths: Iterable[str], read: Callable[[str], str]) -> tuple[Use, ...]:
    """Every use in these files of one tree; `read` gives a file's text."""
    found = read_wrapper(read(WRAPPER))
    uses = list(found.uses)
    for path in sorted(set(paths) - {WRAPPER}):
        text = read(path)
        if TAKES.search(text):  # most files only name it, and parsing all takes seconds
            uses += uses_of_file(parsed(text, path), path, found)
    return tuple(uses)


def parsed(text: str, path: str) -> ast.Module:
    """The syntax tree of an upstream file; ConfigError for one that Python can't read."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of an escape that Python will refuse later
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise unknown(f"{path} isn't Python that can be read: {error}") from None


def read_wrapper(text: str) -> Wrapper:
    tree = parsed(text, WRAPPER)
    taken = taken_names(tree)
    uses: list[Use] = [
        Use(names=names, where=f"{WRAPPER}:{line}") for names, line in taken.values()
    ]
    forwarding: dict[str, Forwarding] = {}
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        dropped = frozenset(deleted_keywords(function))
        for call in calls(function):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            if name not in taken:
                continue
            use = replace(shape(call, f"{WRAPPER}:{call.lineno}"), names=taken[name][0])
            if use.open and use.positional == 0:
                forwarding[function.name] = Forwarding(
                    names=use.names, added=use.keywords, dropped=dropped
                )
            else:
                uses.append(use)
    uses += attribute_uses([*ast.walk(tree)], WRAPPER, {"dg", "_dg"})
    return Wrapper(uses=tuple(uses), forwarding=forwarding)


def taken_names(tree: ast.AST) -> dict[str, tuple[tuple[str, ...], int]]:
    """variable -> (names, line) of every ``variable = getattr(module, "name", ...)``."""
    found: dict[str, tuple[tuple[str, ...], int]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            wanted = tuple(
                one for call in calls(node.value) if (one := looked_up(call)) is not None
            )
            if wanted:
                found[node.targets[0].id] = (wanted, node.lineno)
    return found


def looked_up(call: ast.Call) -> str | None:
    if not (isinstance(call.func, ast.Name) and call.func.id == "getattr" and len(call.args) >= 2):
        return None
    owner, name = call.args[0], call.args[1]
    if isinstance(owner, ast.Name) and owner.id in ("_dg", "dg", "mod"):
        text = name.value if isinstance(name, ast.Constant) else None
        return text if isinstance(text, str) and not text.startswith("_") else None
    return None


def deleted_keywords(function: ast.FunctionDef) -> Iterator[str]:
    """k of each ``del kwargs["k"]``."""
    for node in ast.walk(function):
        for target in node.targets if isinstance(node, ast.Delete) else ():
            if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant):
                yield str(target.slice.value)


def uses_of_file(tree: ast.Module, path: str, wrapper: Wrapper) -> Iterator[Use]:
    """Calls through the wrapper's forwarding functions, and of the package itself."""
    nodes = [*ast.walk(tree)]
    local: dict[str, str] = {}
    owners: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module == WRAPPER_MODULE:
            local |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            owners |= {
                alias.asname or alias.name
                for alias in node.names
                if alias.name in MODULES and (alias.asname or "." not in alias.name)
            }
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                owners |= {node.targets[0].id} if value.func.id == IMPORTER else set()
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        forwarding = wrapper.forwarding.get(local.get(name, ""))
        if forwarding is not None:
            use = shape(call, f"{path}:{call.lineno}")
            kept = tuple(one for one in use.keywords if one not in forwarding.dropped)
            yield replace(use, names=forwarding.names, keywords=(*kept, *forwarding.added))
    yield from attribute_uses(nodes, path, owners)


def attribute_uses(nodes: Sequence[ast.AST], path: str, owners: set[str]) -> Iterator[Use]:
    """``module.name`` for a variable that holds the package, called or not."""
    called: set[int] = set()
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = attribute_of(call.func, owners)
        if name is not None:
            called.add(id(call.func))
            yield replace(shape(call, f"{path}:{call.lineno}"), names=(name,))
    for node in nodes:
        name = attribute_of(node, owners)
        if name is not None and id(node) not in called:
            yield Use(names=(name,), where=f"{path}:{getattr(node, 'lineno', 0)}")


def attribute_of(node: ast.AST, owners: set[str]) -> str | None:
    if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
        return None
    return node.attr if node.value.id in owners and not node.attr.startswith("_") else None


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def shape(call: ast.Call, where: str) -> Use:
    plain = [one for one in call.args if not isinstance(one, ast.Starred)]
    keywords = tuple(one.arg for one in call.keywords if one.arg is not None)
    is_open = len(plain) < len(call.args) or len(keywords) < len(call.keywords)
    return Use(names=(), where=where, positional=len(plain), keywords=keywords, open=is_open)
