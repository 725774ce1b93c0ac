# SPDX-License-Identifier: Apache-2.0
"""The ids that git gives to content, computed without git: a proof that needs no store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from recipe.objects.gate.names import Entry
from recipe.objects.git import EPOCH, IDENTITY


def tree_id(entries: Iterable[Entry]) -> str:
    """The id that git gives a tree of these files: the same on every machine, and checkable there.

    Modes and names count, dates and owners don't.
    """
    root: dict[str, Any] = {}
    for entry in entries:
        *folders, name = entry.path.split("/")
        folder = root
        for part in folders:
            folder = folder.setdefault(part, {})
        folder[name] = (entry.mode, object_id(b"blob", entry.content))
    return folder_id(root).hex()


def folder_id(folder: dict[str, Any]) -> bytes:
    rows = []
    for name, value in folder.items():
        mode, found = ("40000", folder_id(value)) if isinstance(value, dict) else value
        # Git sorts a folder as if its name ended in a slash.
        key = name.encode() + (b"/" if mode == "40000" else b"")
        rows.append((key, f"{mode} {name}\0".encode() + found))
    return object_id(b"tree", b"".join(row for _, row in sorted(rows)))


def import_id(tree: str, message: str) -> str:
    """The id of the commit that `archive.import_entries` makes of a tree."""
    who = f"{IDENTITY[0]} <{IDENTITY[1]}> {EPOCH}"
    text = f"tree {tree}\nauthor {who}\ncommitter {who}\n\n{message}"
    return object_id(b"commit", text.encode()).hex()


def object_id(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content, usedforsecurity=False).digest()
