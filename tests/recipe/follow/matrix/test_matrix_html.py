# SPDX-License-Identifier: Apache-2.0
"""The matrix's page as a file: well-formed, the same each time, and nothing in it is markup."""

from __future__ import annotations

from pathlib import Path

import pytest
from justhtml import JustHTML

from recipe.follow.matrix.html import as_html
from recipe.follow.matrix.markup import sentence, shown
from recipe.follow.matrix.runs import runs_of
from recipe.follow.matrix.table import Cell, CellState, Matrix
from tests.recipe.matrices import HOSTILE, LONG_PATH, cell, hard_matrix, tall_matrix
from tests.recipe.repo import TRAILERS
from tests.recipe.world import World

EMPTY = Matrix(bases=(), cells=())


@pytest.mark.parametrize("found", [EMPTY, tall_matrix(2), hard_matrix()])
def test_it_is_well_formed(found: Matrix) -> None:
    page = as_html(found, patchset="<digest>").decode()
    document = JustHTML(page, strict=True, sanitize=False)
    ids = [(element.attrs or {})["id"] for element in document.query("[id]")]
    assert len(ids) == len(set(ids))
    links = {(element.attrs or {})["href"] for element in document.query("a")}
    assert links <= {f"#{name}" for name in ids}
    assert document.query("script, img, iframe") == []


def test_the_same_matrix_gives_the_same_bytes() -> None:
    assert as_html(hard_matrix(), patchset="x") == as_html(hard_matrix(), patchset="x")
    assert as_html(hard_matrix(), patchset="x") != as_html(hard_matrix(), patchset="y")


def test_a_matrix_without_work_says_so() -> None:
    assert b"Nothing needs work" in as_html(tall_matrix(2), patchset="")
    assert b"To do: 62 cells on 40 releases" in as_html(hard_matrix(), patchset="")


@pytest.mark.parametrize("text", [*HOSTILE, LONG_PATH])
def test_no_text_becomes_markup(text: str) -> None:
    made = JustHTML(f"<!doctype html><p>{sentence(text)}</p>", strict=True, sanitize=False)
    assert {element.name for element in made.query("p *")} <= {"code", "wbr"}
    assert not any(element.attrs for element in made.query("p *"))


def test_what_shows_nothing_is_written_out() -> None:
    assert shown("a\0\x1b\u202e\u2028\udcffz") == r"a\x00\x1b\u202e\u2028\udcffz"
    assert shown("a<b> & 'c' · é ✗") == "a&lt;b&gt; &amp; &#x27;c&#x27; · é ✗"


def test_a_run_tells_once_what_holds_on_all_its_releases() -> None:
    def on(base: str, *seen: str, state: CellState = CellState.APPLIES) -> Cell:
        return cell("topic", base, state, *seen, patch="vllm/topic.patch")

    one, two, three = on("v1.0.0", "a", "b"), on("v1.0.1", "a", "b"), on("v1.1.0", "a", "c")
    last = on("v1.2.0", "a", state=CellState.CONFLICT)

    first, second = runs_of((one, two, three, last))

    assert first.cells == (one, two, three)
    assert first.shared == ("a",)
    assert first.groups == ((one, two), (three,))
    assert [first.own(cell) for cell in first.cells] == [("b",), ("b",), ("c",)]
    assert second.groups == ((last,),)


def with_a_patch(world: World) -> None:
    edit = {"vllm/model.py": b"changed\n"}
    world.add_patch("change.patch", world.upstream.patch(edit))


def test_the_verb_writes_the_page_and_prints_the_text(world: World, tmp_path: Path) -> None:
    with_a_patch(world)
    page = tmp_path / "new folder" / "matrix.html"
    plain = world.good("matrix")

    done = world.good("matrix", "--html", str(page))

    assert done.out == plain.out
    assert f"{TRAILERS['Topic']} on v9.1.0: applies" in page.read_text(encoding="utf-8")
    digest = world.good("plan", "--json").document["patchset_digest"]
    assert digest in page.read_text(encoding="utf-8")
    assert [path.name for path in page.parent.iterdir()] == [page.name]


def test_the_document_is_the_same_with_a_page(world: World, tmp_path: Path) -> None:
    with_a_patch(world)
    page = tmp_path / "matrix.html"
    plain = world.good("matrix", "--json")
    assert world.good("matrix", "--json", "--html", str(page)).out == plain.out
    before = page.read_bytes()
    world.good("matrix", "--html", str(page))
    assert page.read_bytes() == before


def test_a_file_that_cannot_be_written_is_an_answer(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "matrix.html", Path("/dev/null")):
        done = world.run("matrix", "--html", str(place))
        assert done.status == 2, done.err
        assert f"can't write {place}" in done.err
        assert done.next == "name another file: python build.py matrix --html FILE"
    assert Path("/dev/null").is_char_device()
