# SPDX-License-Identifier: Apache-2.0
"""What a wheel says of itself that can't be worked out from the repository alone.

Which release it is of, which tag it has, and which components were compiled, from what. None of it
is believed: it says what to hold the wheel against.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from recipe.bases.components import component_name
from recipe.wheel.components import Action, Component
from recipe.wheel.layout import Packed, Span
from recipe.wheel.read import LARGEST_OBJECT, LARGEST_TEXT
from recipe.wheel.record import FILE
from recipe.wheel.verify.archive import Archive

INFO = re.compile(r"vllm-([0-9][0-9A-Za-z.+]{0,60})\.dist-info/")
# A sentence of a record; what a compile found out can't be foreseen, but it is one line.
SENTENCE = re.compile(r"[^\x00-\x1f\x7f]{1,2000}")
# What CMake's answer makes of a component whose compile no patch changes after all.
SAME = "published binary; the patched tree compiles the same"
LACKS = "; this wheel does not contain that"
VENDORED = re.compile(r"vllm/(third_party/|vllm_flash_attn/)")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """versions: of the .dist-info folders. tag: WHEEL's. patchset: its digest. published: the name
    of upstream's wheel. fates: (action, why) by component. built: what compiled. files: the
    compiled members by component, each with its sha256. whole: whether everything was compiled."""

    versions: tuple[str, ...]
    tag: str
    patchset: str
    published: str
    fates: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    built: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    whole: bool = False


def claim(read: Archive) -> Claim:
    """What can be understood of it; the rest is as if it weren't said."""
    names = (INFO.match(entry.name) for entry in read.entries)
    versions = tuple(dict.fromkeys(found[1] for found in names if found))
    document: dict[str, Any] = {}
    tag = ""
    for version in versions:
        said = text_of(read, f"vllm-{version}.dist-info/WHEEL")
        found = re.search(r"^Tag: (\S+)$", said, re.MULTILINE)
        tag = tag or (found[1] if found else "")
        document = document or document_of(text_of(read, f"vllm-{version}.dist-info/{FILE}"))
    fates = {one["name"]: (one["action"], one["why"]) for one in rows(document.get("components"))}
    built = dict_in(document, "compiled")
    return Claim(
        versions=versions,
        tag=tag,
        patchset=str(document.get("patchset_digest", "")),
        published=str(dict_in(document, "published_wheel").get("name", "")),
        fates=fates,
        built={name: value for name, value in built.items() if name != "files"},
        files=compiled_files(built.get("files"), fates),
        whole=built.get("components") == "all",
    )


def text_of(read: Archive, name: str) -> str:
    entry = read.named(name)
    content = read.content(entry, LARGEST_TEXT) if entry else None
    return (content or b"").decode("utf-8", "replace")


def document_of(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def dict_in(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def rows(found: Any) -> list[dict[str, str]]:
    """Those of a list's rows that are what a component's row must be."""
    keys = ("name", "action", "why")
    return [
        {key: one[key] for key in keys}
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict) and all(isinstance(one.get(key), str) for key in keys)
        if SENTENCE.fullmatch(one["why"]) and re.fullmatch(r"\w{1,80}", one["name"])
    ]


def compiled_files(found: Any, fates: Mapping[str, tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Members that may be a component's own: its shared objects, and files of a package that a
    compile brings with it. A component that isn't said to be compiled has none."""
    taken: dict[str, dict[str, str]] = {}
    for name, files in (found if isinstance(found, dict) else {}).items():
        if fates.get(name, ("", ""))[0] != Action.REBUILD or not isinstance(files, dict):
            continue
        taken[name] = {
            member: digest
            for member, digest in files.items()
            if isinstance(digest, str) and may_be(name, member)
        }
    return taken


def may_be(component: str, member: str) -> bool:
    if member.endswith(".so"):
        return component_name(member) == component
    return VENDORED.match(member) is not None


def believable(declared: Iterable[Component], said: Claim) -> tuple[Component, ...]:
    """The components with what the wheel says becomes of them, where the patches allow it.

    A component whose compile a patch changes is stale, or compiled if the record names what it was
    compiled to: that it would compile the same is CMake's to say, and only a rebuild asks it.
    """
    known = {one.name: one for one in declared}
    for name, (action, why) in said.fates.items():
        compiled = action == Action.REBUILD and bool(said.files.get(name))
        stale = action == Action.STALE and LACKS in why
        same = name not in known and (action, why) == (Action.REUSE, SAME)
        if compiled or stale or same:
            known[name] = Component(name=name, files=(), action=Action(action), why=why)
    return tuple(known[name] for name in sorted(known))


def taken_out(read: Archive, stream: IO[bytes], member: str, into: Path) -> Packed | None:
    """A compiled member, unpacked into a file to look at, and as it lies in the wheel; None where
    there is none or it can't be unpacked."""
    entry = read.named(member)
    if entry is None or entry.central.method != 8:
        return None
    found, crc, size = sha256(), 0, 0
    into.parent.mkdir(parents=True, exist_ok=True)
    with into.open("wb") as sink:
        for block in read.blocks(entry, LARGEST_OBJECT):
            if block is None:
                return None
            found.update(block)
            crc = zlib.crc32(block, crc)
            size += len(block)
            sink.write(block)
    span = Span(stream=stream, offset=entry.begin, size=entry.central.packed)
    return Packed(data=span, crc=crc, size=size, sha256=found.hexdigest())
