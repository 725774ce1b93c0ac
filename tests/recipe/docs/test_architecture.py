# SPDX-License-Identifier: Apache-2.0
"""The page about the program's architecture, and its picture, are of the program as it is."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.recipe.docs.pages import ROOT, page
from tools import architecture

PAGE = page("docs/architecture.md")
NAMED = sorted(set(re.findall(r"`([a-z_.]+):([a-z_]+)`", PAGE.text)) - {("module", "function")})


def functions(module: str) -> set[str]:
    path = ROOT / f"{module.replace('.', '/')}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("module", "function"), NAMED)
def test_every_function_it_names_is_there(module: str, function: str) -> None:
    assert function in functions(module)


def test_the_way_of_a_build_has_ten_steps_that_each_name_a_function() -> None:
    text = PAGE.text.partition("## From")[2].partition("\n## ")[0]
    steps = re.split(r"^\d+\. ", text, flags=re.M)[1:]
    assert len(steps) == 10
    assert all(re.search(r"`[a-z_.]+:[a-z_]+`", step) for step in steps)


def test_there_are_ten_places_to_put_a_change_and_every_path_is_there() -> None:
    text = PAGE.text.partition("## Where do I put")[2]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    paths = re.findall(r"`((?:overlay|recipe|benchmarks)/[\w./]+)`", text)
    assert len(paths) >= 6
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_it_names_who_decides_upstreamed_and_who_computes_the_tag() -> None:
    """Both are what the row says: one gives the outcome, the other asks for both tags."""
    assert 'Decides "upstreamed"' in PAGE.text and "What is the wheel's tag?" in PAGE.text
    rows = {line.split(" | ")[0]: line for line in PAGE.text.splitlines() if line[:2] == "| "}
    decides = next(row for start, row in rows.items() if "Decides" in start)
    tag = next(row for start, row in rows.items() if "wheel's tag" in start)
    assert "Outcome.UPSTREAMED" in source_of(decides)
    assert "platform_tag(" in source_of(tag) and "binaries_tag(" in source_of(tag)


def source_of(row: str) -> str:
    """The source of the one function that a row names."""
    ((module, function),) = re.findall(r"`([a-z_.]+):([a-z_]+)`", row)
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    found = next(
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == function
    )
    return ast.get_source_segment(text, found) or ""


def test_the_picture_is_what_the_imports_say_now() -> None:
    drawn = architecture.drawn(architecture.packages())
    assert architecture.PICTURE.read_text(encoding="utf-8") == drawn, "python tools/architecture.py"
    ElementTree.fromstring(drawn)


def test_a_new_import_changes_the_picture_and_one_upwards_is_refused(tmp_path: Path) -> None:
    for name, text in {
        "low": "",
        "middle": "from recipe.low import x\n",
        "high": "import recipe.middle.x\n",
    }.items():
        folder = tmp_path / "recipe" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f'"""What {name} does."""\n', encoding="utf-8")
        (folder / "x.py").write_text(text, encoding="utf-8")
    found = architecture.packages(tmp_path)
    assert [[one.name for one in row] for row in architecture.floors(found)] == [
        ["low"],
        ["middle"],
        ["high"],
    ]
    assert architecture.arrows(found) == (("high", "middle"), ("middle", "low"))
    (tmp_path / "recipe" / "high" / "y.py").write_text("import recipe.low.x\n", encoding="utf-8")
    assert architecture.arrows(architecture.packages(tmp_path)) == architecture.arrows(found)
    (tmp_path / "recipe" / "low" / "y.py").write_text("import recipe.high.x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="import each other"):
        architecture.floors(architecture.packages(tmp_path))


def test_an_arrow_ends_at_its_boxes() -> None:
    found = architecture.packages()
    boxes = {box.package.name: box for box in architecture.placed(found)}
    lanes = {(a, b): n for n, (a, b, _) in enumerate(architecture.long_arrows(found))}
    for start, end in architecture.arrows(found):
        path = architecture.arrow(boxes[start], boxes[end], lanes.get((start, end)))
        x = int(re.findall(r"M(\d+) ", path)[0])
        for box in (boxes[start], boxes[end]):
            assert box.x < x < box.x + box.width
