# SPDX-License-Identifier: Apache-2.0
"""Editing a header changes the one trailer that was meant; ranges stay what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from recipe.series.file import insert_after
from recipe.series.header import bounded_below, covering, range_text, release_text, set_trailer
from recipe.series.patch import KNOWN, REQUIRED
from tests.recipe.repo import read

VALUES = {
    "Topic": "topic",
    "Bases": ">=0.20",
    "Origin": "vendor",
    "Forwarded": "no",
    "Applied-Upstream": "0.24",
    "Not-Needed": ">=0.33",
    "Drop-When": "upstream >= 0.24",
    "Components": "_C",
    "Tests": "tests/patched/test_small.py",
}
DIFF = (
    b"diff --git a/x b/x\nindex 1234567..89abcde 100644\n--- a/x\n+++ b/x\n"
    b"@@ -1 +1 @@\n-Bases: old\r\n+Bases: new\xff\n"
)
OPTIONAL = [name for name in KNOWN if name not in REQUIRED]
PROSE = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=60)


def patch(names: list[str], prose: str = "Why.", end: str = "\n\n") -> bytes:
    trailers = "\n".join(f"{name}: {VALUES[name]}" for name in names)
    date = "Sun, 22 Nov 2026 00:00:00 +0000"
    head = f"From 0\nFrom: a <b@c>\nDate: {date}\nSubject: s\n\n{prose}\n\n{trailers}{end}"
    return head.encode() + DIFF


def chosen(optional: list[str]) -> list[str]:
    return [name for name in KNOWN if name in REQUIRED or name in optional]


@given(
    names=st.permutations(KNOWN).flatmap(
        lambda all: st.integers(1, len(all)).map(lambda count: list(all[:count]))
    ),
    name=st.sampled_from(KNOWN),
    value=st.text("abc:<>=,. 019", min_size=1).filter(lambda text: text == text.strip()),
    prose=PROSE,
    end=st.sampled_from(["\n\n", "\n", "\n---\n\n", "\n\n---\n"]),
)
def test_one_line_changes_and_every_other_byte_stays(
    names: list[str], name: str, value: str, prose: str, end: str
) -> None:
    assume("\ndiff --git " not in "\n" + prose)
    before = patch(names, prose, end)

    after = set_trailer(before, name, value)

    line = f"{name}: {value}".encode()
    old, new = before.split(b"\n"), after.split(b"\n")
    if name in names:
        place = before.rfind(f"\n{name}: {VALUES[name]}\n".encode(), 0, -len(DIFF)) + 1
        end_of_line = before.index(b"\n", place)
        assert after == before[:place] + line + before[end_of_line:]
    else:
        place = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
        assert new == [*old[:place], line, *old[place:]]
        assert set_trailer(after, name, None) == before
    assert set_trailer(after, name, value) == after
    assert after.endswith(DIFF)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(optional=st.lists(st.sampled_from(OPTIONAL), unique=True), name=st.sampled_from(OPTIONAL))
def test_a_missing_trailer_goes_where_the_order_puts_it(
    tmp_path: Path, optional: list[str], name: str
) -> None:
    after = set_trailer(patch(chosen(optional)), name, VALUES[name])
    assert after == patch(chosen([*optional, name]))
    without = set_trailer(after, name, None)
    assert without == patch(chosen([one for one in optional if one != name]))
    assert read(tmp_path, after).topic == "topic"


def test_a_line_of_the_prose_or_the_diff_is_not_taken_for_a_trailer() -> None:
    before = patch(list(REQUIRED), "Bases: not this one\nTests: nor this")
    after = set_trailer(before, "Bases", ">=0.30")
    assert after == before.replace(b"\nBases: >=0.20\n", b"\nBases: >=0.30\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [("Signed-off-by", "me"), ("Bases", ""), ("Bases", "a\nTests: b"), ("Bases", " a")],
)
def test_what_would_break_the_header_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="not a trailer"):
        set_trailer(patch(list(REQUIRED)), name, value)


@pytest.mark.parametrize(
    ("spec", "version", "expected"),
    [
        (">=0.20", "0.24.0", ">=0.20,<0.24"),
        (">=0.20", "0.24.1", ">=0.20,<0.24.1"),
        (">=0.20,<0.30", "0.24.0", ">=0.20,<0.24"),
        (">=0.20,<0.22", "0.24.0", ">=0.20,<0.22"),
        (">=0.20,<=0.24", "0.24.0", ">=0.20,<0.24"),
        (">=0.20,!=0.21.0,<0.30", "0.24.0", ">=0.20,<0.24,!=0.21.0"),
        ("==0.23.*", "0.23.1", ">=0.23,<0.23.1"),
        ("==0.23.*", "0.30.0", ">=0.23,<0.24"),
        ("", "0.30.0", "<0.30"),
    ],
)
def test_bounded_below(spec: str, version: str, expected: str) -> None:
    assert range_text(bounded_below(SpecifierSet(spec), Version(version))) == expected


@pytest.mark.parametrize(
    ("spec", "version", "after", "expected"),
    [
        (">=0.20,<0.24", "0.24.0", "0.25.0", ">=0.20,<0.25"),
        (">=0.20,<0.24", "0.24.0", None, ">=0.20"),
        (">=0.20,<=0.23", "0.24.0", "0.24.1", ">=0.20,<0.24.1"),
        (">=0.24", "0.23.1", "0.24.0", ">=0.23.1"),
        (">=0.24,<0.26", "0.23.0", None, ">=0.23,<0.26"),
        (">=0.20,<0.24", "0.22.0", "0.23.0", ">=0.20,<0.24"),
        (">=0.20,!=0.22.0", "0.22.0", None, ">=0.20"),
        ("~=0.23.1", "0.24.0", "0.25.0", ">=0.23.1,<0.25"),
        ("==0.23.1", "0.24.0", "0.25.0", ">=0.23.1,<0.25"),
    ],
)
def test_covering(spec: str, version: str, after: str | None, expected: str) -> None:
    upper = None if after is None else Version(after)
    assert range_text(covering(SpecifierSet(spec), Version(version), upper)) == expected


RELEASE = st.builds(lambda a, b: Version(f"0.{a}.{b}"), st.integers(0, 9), st.integers(0, 2))
CLAUSE = st.builds(
    lambda operator, version: f"{operator}{version}",
    st.sampled_from([">=", ">", "<", "<=", "!=", "==", "~="]),
    RELEASE,
)
SPEC = st.lists(CLAUSE, max_size=3).map(lambda parts: SpecifierSet(",".join(parts)))


@given(spec=SPEC, version=RELEASE, other=RELEASE)
def test_bounding_keeps_exactly_the_releases_before_it(
    spec: SpecifierSet, version: Version, other: Version
) -> None:
    wanted = spec.contains(other) and other < version
    assert bounded_below(spec, version).contains(other) == wanted


@given(spec=SPEC, version=RELEASE, after=st.none() | RELEASE, other=RELEASE)
def test_covering_takes_the_release_in_and_loses_none(
    spec: SpecifierSet, version: Version, after: Version | None, other: Version
) -> None:
    assume(after is None or after > version)
    wider = covering(spec, version, after)
    assert wider.contains(version)
    if spec.contains(other):
        assert wider.contains(other)


@pytest.mark.parametrize(
    ("version", "text"),
    [("0.24.0", "0.24"), ("0.24.1", "0.24.1"), ("0.20.0.0", "0.20"), ("1.0.0", "1.0"), ("9", "9")],
)
def test_release_text_drops_trailing_zeros(version: str, text: str) -> None:
    assert release_text(Version(version)) == text


SERIES = "# The order\n\n# Group\nvllm/a.patch # why\n  vllm/b.patch  \n\n# End"


@pytest.mark.parametrize(
    ("entry", "before", "after"),
    [
        ("vllm/a.patch", "vllm/a.patch # why\n", "  vllm/b.patch  \n"),
        ("vllm/b.patch", "  vllm/b.patch  \n", "\n# End"),
        (None, "# Group\n", "vllm/a.patch # why\n"),
    ],
)
def test_a_line_of_the_series_is_inserted_and_the_rest_stays(
    entry: str | None, before: str, after: str
) -> None:
    new = insert_after(SERIES, entry, "vllm/new.patch")
    assert f"{before}vllm/new.patch\n{after}" in new
    assert new.replace("vllm/new.patch\n", "", 1) == SERIES


def test_a_series_that_ends_without_a_newline_or_is_empty() -> None:
    assert insert_after("vllm/a.patch", "vllm/a.patch", "vllm/b.patch") == (
        "vllm/a.patch\nvllm/b.patch\n"
    )
    assert insert_after("# none\n", None, "vllm/b.patch") == "# none\nvllm/b.patch\n"
    with pytest.raises(KeyError):
        insert_after("# vllm/a.patch\n", "vllm/a.patch", "vllm/b.patch")
