# SPDX-License-Identifier: Apache-2.0
"""A kept answer that was damaged or changed is no answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe.ground import proven

ANSWER = {"platform": "manylinux_2_28_x86_64", "cells": [{"state": "applies"}]}


def test_an_answer_comes_back_to_its_own_question_alone(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "x.json"
    proven.keep(path, "the tag of x", ANSWER)
    found = proven.recall(path, "the tag of x")
    assert found is not None
    assert {name: found[name] for name in ANSWER} == ANSWER
    assert proven.recall(path, "the tag of y") is None
    assert proven.recall(tmp_path / "none.json", "the tag of x") is None
    assert proven.damaged(path.parent) == []


def test_one_changed_bit_anywhere_makes_it_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    proven.keep(path, "x", ANSWER)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 32):
            changed = bytearray(whole)
            changed[place] ^= bit
            path.write_bytes(changed)
            found = proven.recall(path, "x")
            assert found is None or found == json.loads(whole), (place, bit)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"platform": "any"}', b"[" * 100_000, b"\xff\xfe"]
)
def test_what_is_no_answer_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert proven.recall(path, "x") is None
    assert proven.damaged(tmp_path) == [path]
