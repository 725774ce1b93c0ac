# SPDX-License-Identifier: Apache-2.0
"""The pages of an index as text: HTML (PEP 503) and JSON (PEP 691, with the sizes of PEP 700).

A page depends on what is listed and on nothing else: the same wheels give the same bytes.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from recipe.wheel.index.entry import Entry

API = "1.1"
HTML = "index.html"
JSON = "index.json"
METADATA = ".metadata"  # behind a wheel's name: PEP 658
# A wheel as seen from its project's page, simple/PROJECT/.
FILES = "../../files/"


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """Oldest version first, as a reader looks for the newest at the end."""
    return sorted(entries, key=lambda entry: (entry.version, entry.name))


def project_html(project: str, entries: Iterable[Entry]) -> bytes:
    return document(project, [link(entry) for entry in ordered(entries)])


def link(entry: Entry) -> str:
    """A wheel's line. Old readers know metadata by its first name, `dist-info` (PEP 714)."""
    told = {
        "href": f"{FILES}{quote(entry.name)}#sha256={entry.sha256}",
        **({"data-requires-python": entry.requires_python} if entry.requires_python else {}),
        "data-core-metadata": f"sha256={entry.metadata_sha256}",
        "data-dist-info-metadata": f"sha256={entry.metadata_sha256}",
    }
    said = " ".join(f'{name}="{html.escape(value)}"' for name, value in told.items())
    return f"<a {said}>{html.escape(entry.name)}</a><br>"


def root_html(projects: Sequence[str]) -> bytes:
    return document("Packages", [f'<a href="{p}/">{p}</a><br>' for p in sorted(projects)])


def document(title: str, lines: Sequence[str]) -> bytes:
    head = f'<meta name="pypi:repository-version" content="{API}">\n<title>{title}</title>'
    body = "\n".join([f"<h1>{title}</h1>", *lines])
    text = f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{head}\n</head>\n'
    return f"{text}<body>\n{body}\n</body>\n</html>\n".encode()


def project_json(project: str, entries: Iterable[Entry]) -> bytes:
    listed = ordered(entries)
    versions = dict.fromkeys(str(entry.version) for entry in listed)
    files = [as_json(entry) for entry in listed]
    return dumped({"name": project, "versions": list(versions), "files": files})


def as_json(entry: Entry) -> dict[str, Any]:
    hashes = {"sha256": entry.metadata_sha256}
    return {
        "filename": entry.name,
        "url": f"{FILES}{quote(entry.name)}",
        "hashes": {"sha256": entry.sha256},
        "size": entry.size,
        **({"requires-python": entry.requires_python} if entry.requires_python else {}),
        "core-metadata": hashes,
        "dist-info-metadata": hashes,
    }


def root_json(projects: Sequence[str]) -> bytes:
    return dumped({"projects": [{"name": name} for name in sorted(projects)]})


def dumped(content: dict[str, Any]) -> bytes:
    return (json.dumps({"meta": {"api-version": API}, **content}, indent=1) + "\n").encode()


def published_hashes(page: bytes) -> dict[str, str]:
    """File name to sha256 of a project's JSON page that this module wrote; ValueError otherwise."""
    try:
        read = json.loads(page)
        found = {row["filename"]: row["hashes"]["sha256"] for row in read["files"]}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"not a page of an index: {error}") from None
    if not all(isinstance(text, str) for pair in found.items() for text in pair):
        raise ValueError("not a page of an index: a name or a hash is no text")
    return found
