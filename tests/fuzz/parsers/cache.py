# SPDX-License-Identifier: Apache-2.0
"""What the recipe has kept itself, in the cache or the checkout: a disk may give back anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recipe.compile import component_store
from recipe.compile.toolchain import jobs
from recipe.follow.matrix import store as matrix
from recipe.follow.rebase import state
from recipe.gpu import code
from recipe.gpu.fatbin import Kind
from recipe.ground import proven
from recipe.ground.environments import made
from recipe.ground.project import Project
from tests.fuzz.parser import Parser

KEPT: dict[str, Any] = {
    "platform": "manylinux_2_28_x86_64",
    "torch": "2.11.0",
    "python": "3.12",
    "key": "ab",
    "files": {"vllm/_C.abi3.so": "ab" * 32},
}
CELL = {
    "base": "v0.33.0",
    "topic": "sparse-mla",
    "patch": "vllm/0001.patch",
    "state": "applies",
    "evidence": ["exact"],
    "place": "",
}
MATRIX = {"bases": ["v0.33.0"], "cells": [CELL, {**CELL, "state": "conflict", "place": "a.py"}]}
CODE = {
    "name": "_C",
    "file": "vllm/_C.abi3.so",
    "units": [[["sass", "12.0f", {"vllm::axpy": 2}], ["ptx", "12.0", {}]]],
    "run_time": ["12.0"],
}
STEP = {
    "topic": "sparse-mla",
    "patch": "vllm/0001.patch",
    "outcome": "exact",
    "decision": "machine",
    "commit": "ab" * 20,
    "renames": [["a", "b"]],
    "evidence": [],
}
STOP = {
    "topic": "t",
    "patch": "p",
    "kind": "conflict",
    "outcome": "conflict",
    "before": "a",
    "after": "b",
    "stack": "c",
    "tree": "d",
    "memory": "",
    "hunks": 1,
    "taken": 0,
    "conflicts": 1,
    "paths": ["x"],
    "renames": [],
    "evidence": [],
}
STATE = {
    "schema": 1,
    "onto": "v0.33.0",
    "origin": "v0.32.0",
    "upstream": "vllm",
    "source": "auto",
    "command": None,
    "accept": [],
    "inputs": "ab",
    "steps": [STEP],
    "stop": STOP,
    "finishing": False,
}


def written(*documents: object) -> list[bytes]:
    return [json.dumps(one).encode() for one in documents]


def answers(content: bytes, folder: Path) -> None:
    (folder / "answer.json").write_bytes(content)
    proven.recall(folder / "answer.json", "a question")
    proven.damaged(folder)


def with_proof(content: bytes, question: str) -> bytes:
    """The answer with the proof that it would have, so that what reads it gets to see it."""
    try:
        found = json.loads(content)
        return json.dumps({**found, proven.PROOF: proven.proof(question, found)}).encode()
    except (ValueError, TypeError, RecursionError):
        return content


def stored_matrix(content: bytes, folder: Path) -> None:
    (folder / "kept.json").write_bytes(with_proof(content, "q"))
    kept = proven.recall(folder / "kept.json", "q")
    found = None if kept is None else matrix.load(kept)
    if found is not None:
        [matrix.history(found.row(topic)) for topic in found.topics]


def stored_code(content: bytes, folder: Path) -> None:
    (folder / "kept.json").write_bytes(with_proof(content, "q"))
    kept = proven.recall(folder / "kept.json", "q")
    found = None if kept is None else code.load(kept)
    for one in found or ():
        one.targets(Kind.SASS), one.verdict("12.1")


def component(content: bytes, folder: Path) -> None:
    place = folder / f"_C-{'ab' * 8}"
    place.mkdir()
    for proof in (content, with_proof(content, "_C ab")):
        place.mkdir(exist_ok=True)
        (place / component_store.FILES).write_bytes(proof)
        component_store.is_whole(place)
        component_store.stored(folder, "_C", "ab" * 8)


def environment(content: bytes, folder: Path) -> None:
    for kept in (content, with_proof(content, folder.name)):
        (folder / made.READY).write_bytes(kept)
        made.made_of(folder)


def rebase(content: bytes, folder: Path) -> None:
    (folder / ".rebase").mkdir()
    (folder / ".rebase" / "state.json").write_bytes(content)
    state.load(Project(root=folder, cache=folder))


def peaks(content: bytes, folder: Path) -> None:
    (folder / jobs.PEAKS).write_bytes(content)
    jobs.peak_of(folder, ("_C", "_moe_C"))


PARSERS = (
    Parser(name="kept-answers", read=answers, made=lambda: written({**KEPT, "proof": "ab"})),
    Parser(name="kept-matrix", read=stored_matrix, made=lambda: written(MATRIX)),
    Parser(name="kept-gpu-code", read=stored_code, made=lambda: written({"components": [CODE]})),
    Parser(name="kept-component", read=component, made=lambda: written(KEPT)),
    Parser(name="kept-environment", read=environment, made=lambda: written(KEPT)),
    Parser(name="rebase-state", read=rebase, made=lambda: written(STATE)),
    Parser(name="memory-peaks", read=peaks, made=lambda: written({"_C": 3 << 30})),
)
