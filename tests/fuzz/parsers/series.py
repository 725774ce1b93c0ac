# SPDX-License-Identifier: Apache-2.0
"""What a person or another tool writes: patches, the series file, bases.toml."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from packaging.version import Version

from recipe.bases.catalog import render
from recipe.bases.releases import load_bases
from recipe.objects import hunks
from recipe.objects.gate import names
from recipe.series import diff, header, lint
from recipe.series.file import insert_after
from recipe.series.patch import KNOWN, Patch, parse_patch
from recipe.series.topics import first_release, series_entries
from tests.fuzz.parser import ROOT, Parser, text

DIFF = b"""
diff --git a/vllm/a.py b/vllm/a.py
index %s..%s 100644
--- a/vllm/a.py
+++ b/vllm/a.py
@@ -1 +1 @@
-a
+b
""" % (b"1" * 40, b"2" * 40)
PATCHES = ("patches/*/*.patch",)


def patch(content: bytes, folder: Path) -> Patch:
    found = parse_patch("vllm/x.patch", content)
    first_release(found)
    [found.line_of(name) for name in KNOWN]
    lint.check_form(found)
    return found


def mail(content: bytes, folder: Path) -> Patch:
    return parse_patch("vllm/x.patch", content + DIFF)


def mails() -> list[bytes]:
    paths = [path for pattern in PATCHES for path in sorted(ROOT.glob(pattern))]
    return [path.read_bytes().partition(b"\ndiff --git ")[0] for path in paths]


def edited(content: bytes, folder: Path) -> None:
    """A patch that was read can be written with other releases, and is read again then."""
    found = parse_patch("vllm/x.patch", content)
    low, high = Version("0.20.2"), Version("0.40")
    for spec in (found.bases, *([found.not_needed] if found.not_needed else [])):
        for new in (
            header.bounded_below(spec, low),
            header.covering(spec, high, None),
            header.including(spec, low, [low, high]),
            header.without(spec, [high]),
        ):
            written = header.set_trailer(content, "Bases", header.range_text(new))
            parse_patch("vllm/x.patch", written)


def read_diff(content: bytes, folder: Path) -> None:
    if next(diff.wrong_lines(content, 1), None) is None:
        diff.touched_paths(content, 1)


def read_hunks(content: bytes, folder: Path) -> None:
    for one in hunks.read_hunks(content):
        one.added(), one.removed()
    hunks.change_of(content)
    hunks.count_lines(content)


def series_file(content: bytes, folder: Path) -> None:
    path = folder / "series.txt"
    path.write_bytes(content)
    for _, entry in series_entries(path):
        names.wrong_with(entry)
        with suppress(KeyError):
            insert_after(text(content), entry, "vllm/new.patch")


def bases(content: bytes, folder: Path) -> None:
    """Pins that were read are written so that they are read again."""
    path = folder / "bases.toml"
    path.write_bytes(content)
    found = load_bases(path)
    found.find("latest")
    path.write_text(render(found), encoding="utf-8")
    assert load_bases(path) == found


def releases() -> list[bytes]:
    """bases.toml with one release at a time."""
    head, *parts = (ROOT / "bases.toml").read_bytes().split(b"[[base]]")
    return [b"[[base]]".join([head, part]) for part in parts]


def name(content: bytes, folder: Path) -> None:
    given = text(content)
    names.escaped(content), names.escaped(given)
    names.wrong_file_name(given)
    links = {names.folded(one): one for one in given.split("\n") if one}
    for one in links:
        names.wrong_way(one, links)
    gate = names.Gate(refuse=lambda name, why: names_refused(name, why))
    for one, target in pairwise([*given.split("\n"), ""]):
        gate.admit(one, "100644", 1)
        if target:
            gate.admit(f"{one}.l", "120000", 1, target.encode("utf-8", "surrogateescape"))
    gate.settle()


class NameRefused(Exception):
    pass


def names_refused(name: str, why: str) -> NameRefused:
    assert name.isprintable(), name
    return NameRefused(name, why)


PARSERS = (
    Parser(name="patch", read=patch, seeds=PATCHES),
    Parser(name="mail", read=mail, made=mails),
    Parser(name="patch-edit", read=edited, seeds=PATCHES),
    Parser(name="diff", read=read_diff, seeds=PATCHES),
    Parser(name="hunks", read=read_hunks, seeds=PATCHES),
    Parser(name="series-file", read=series_file, seeds=("series.txt",)),
    Parser(name="bases", read=bases, made=releases),
    Parser(
        name="names",
        read=name,
        refuses=(NameRefused,),
        made=lambda: ["a\nb/c.py\nd\u00e9/\u212a.cu\nvllm/x".encode()],
    ),
)
