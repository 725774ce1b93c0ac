# SPDX-License-Identifier: Apache-2.0
"""Every link of a page leads somewhere, every page is listed, and README stays short."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath

import pytest

from tests.recipe.docs.pages import ROOT, Page, page, pages

PAGES = {one.name: one for one in pages()}


def outside(link: str) -> bool:
    return link.startswith(("https://", "http://", "mailto:"))


def target(one: Page, link: str) -> tuple[str, str]:
    """The path from the root and the anchor that a link of a page leads to."""
    path, _, anchor = link.partition("#")
    folder = PurePosixPath(one.name).parent
    return (posixpath.normpath((folder / path).as_posix()) if path else one.name), anchor


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(name: str) -> None:
    one = PAGES[name]
    for link in filter(lambda link: not outside(link), one.links):
        path, anchor = target(one, link)
        assert (ROOT / path).exists() and not path.startswith(".."), f"{name}: {link}"
        if anchor:
            assert anchor in PAGES[path].anchors, f"{name}: {link}"


def test_every_page_of_docs_is_on_the_list() -> None:
    index = page("docs/README.md")
    listed = {target(index, link)[0] for link in index.links}
    missing = {name for name in PAGES if name.startswith("docs/")} - listed - {"docs/README.md"}
    assert not missing


def test_readme_is_one_sitting_and_leads_to_the_list() -> None:
    readme = page("README.md")
    assert len(readme.text.splitlines()) <= 120
    assert "docs/README.md" in readme.links


def test_a_page_tells_no_place_of_a_machine() -> None:
    for one in PAGES.values():
        assert "/home/" not in one.text and "/root/" not in one.text and "/tmp/" not in one.text
