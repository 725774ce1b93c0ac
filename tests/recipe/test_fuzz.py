# SPDX-License-Identifier: Apache-2.0
"""Every parser refuses what is wrong and never falls over: tests/fuzz, for a short while.

The long run is a command, `python -m tests.fuzz`; docs/fuzzing.md has what it found.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from recipe.ground.errors import UsageError
from tests.fuzz import __main__ as command
from tests.fuzz import parser as fuzz
from tests.fuzz.parser import CORPUS, Hang, Parser
from tests.fuzz.parsers import PARSERS
from tests.fuzz.trial import Trial, Tried, kind_of
from tests.recipe.docs.pages import ROOT, page

INPUTS = 60
needs_atheris = pytest.mark.skipif(
    find_spec("atheris") is None, reason="atheris has no wheel for this machine or Python"
)


@pytest.mark.parametrize("name", PARSERS)
def test_real_inputs_are_taken_and_those_that_once_did_harm_refused(
    name: str, tmp_path: Path
) -> None:
    taken = [PARSERS[name].accepts(content, tmp_path) for content in PARSERS[name].inputs()]
    assert any(taken)


@needs_atheris
def test_no_parser_falls_over(tmp_path: Path) -> None:
    options = ["--inputs", str(INPUTS), "--json", "--keep", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {(one["name"], one["inputs"]) for one in json.loads(done.stdout)} == {
        (name, INPUTS) for name in PARSERS
    }


def test_every_input_of_the_corpus_is_some_parsers() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(PARSERS)


def fall(content: bytes, folder: Path) -> None:
    if content == b"refuse":
        raise UsageError("no")
    if content == b"hang":
        while True:
            pass
    if content:
        content.decode("ascii")


FALLS = Parser(name="falls", read=fall)


def test_a_fault_is_kept_once_with_its_input(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    trial = Trial(parser=FALLS, most=100, folder=tmp_path / "folder", keep=tmp_path)
    for content in (b"", b"refuse", b"\xff", b"\xfe"):
        trial(content)
    assert (trial.inputs, trial.accepted) == (4, 1)
    ((kind, name),) = trial.faults.items()
    assert kind.startswith("UnicodeDecodeError at test_fuzz.py:")
    assert (tmp_path / "falls" / name).read_bytes() == b"\xff"
    assert "'ascii' codec" in (tmp_path / "falls" / f"{name}.txt").read_text(encoding="utf-8")


def test_an_input_without_an_end_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "HANG_SECONDS", 0.05)
    with pytest.raises(Hang) as caught:
        FALLS.accepts(b"hang", tmp_path)
    assert kind_of(caught.value).startswith("Hang at ")


def test_a_row_takes_the_place_of_the_parsers_own() -> None:
    start = f"# Page\n\n{command.HEAD}\n\nThe end.\n"
    once = command.written(start, Tried(name="a", inputs=1000, accepted=2))
    twice = command.written(once, Tried(name="b", inputs=5, accepted=1, faults={"X at y:1": "h"}))
    again = command.written(twice, Tried(name="a", inputs=2000, accepted=3))
    assert again == (
        f"# Page\n\n{command.HEAD}| `a` | 2,000 | 3 | none |\n| `b` | 5 | 1 | X at y:1 |"
        "\n\nThe end.\n"
    )


def test_the_page_has_a_row_for_each_parser_that_was_tried_and_none_fell_over() -> None:
    text = page("docs/fuzzing.md").text
    rows = re.findall(r"^\| `([a-z-]+)` \| ([\d,]+) \| [\d,]+ \| (.+) \|$", text, re.M)
    assert {name for name, _, _ in rows} <= set(PARSERS)
    assert {fell for _, _, fell in rows} == {"none"}
