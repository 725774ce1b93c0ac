# SPDX-License-Identifier: Apache-2.0
"""What the tests of the overlay take for FlashInfer is what its published wheels have."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Optional

import pytest

from benchmarks.flashinfer_wheels import KEPT, gather, render
from recipe.bases.download import Link, list_files
from recipe.bases.flashinfer import remote
from tests.overlay.flashinfer_wheels import PREDICATE, WHEELS

TABLE = "_DECODE_DSV4_DISPATCH"
COMPUTED = [v for v, facts in WHEELS.items() if "made_by" in facts["shapes"].get("DSV4", {})]


@pytest.fixture(scope="module")
def published() -> dict[str, Link]:
    return {v: link for v, link in list_files("flashinfer-python") if link.name.endswith(".whl")}


def test_the_kept_facts_are_those_of_the_wheels() -> None:
    assert render(gather()) == KEPT.read_text(encoding="utf-8")


def run_what_runs(source: bytes) -> dict[str, Any]:
    """The names that a module defines without what it imports."""
    names: dict[str, Any] = {"__name__": "builtins", "dataclass": dataclasses.dataclass}
    names |= {"Iterator": Iterator, "Optional": Optional}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.ClassDef, ast.FunctionDef)):
            code = compile(ast.Module([node], []), "policy", "exec")
            with contextlib.suppress(NameError):
                exec(code, names)
    return names


@pytest.mark.parametrize("version", COMPUTED)
def test_the_stand_in_answers_as_the_wheels_own_code(
    published: dict[str, Link], version: str
) -> None:
    table = WHEELS[version]["shapes"]["DSV4"]
    with remote(published[version]) as wheel:
        real = run_what_runs(wheel.read(table["in"]))[TABLE]
    names: dict[str, Any] = {}
    exec(PREDICATE.format(name=table["made_by"]), names)
    standin = names[table["made_by"]]("DSV4")
    for heads in (0, 1, 3, 8, 24, 64, 128, 129, 256):
        for topk in (0, 1, 128, 192, 2048):
            assert ((heads, topk) in real) == ((heads, topk) in standin), (heads, topk)
