# SPDX-License-Identifier: Apache-2.0
"""Answers that are kept in the cache with their proof: a digest over what was asked and what was
answered. One that was damaged or changed there is no answer, and is found out anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.ground.digest import sha256
from recipe.ground.log import say
from recipe.ground.scratch import write_whole

PROOF = "proof"


def proof(question: str, answer: Mapping[str, Any]) -> str:
    """The digest of an answer to a question, by the answer's JSON and not by how it is written."""
    rest = {name: value for name, value in answer.items() if name != PROOF}
    return sha256(json.dumps([question, rest], sort_keys=True, separators=(",", ":")).encode())


def keep(path: Path, question: str, answer: Mapping[str, Any]) -> None:
    """Keep an answer. question: all that decides it, such as the hash of a file and of a reader."""
    text = json.dumps({**answer, PROOF: proof(question, answer)})
    write_whole(path, text.encode())


def recall(path: Path, question: str) -> dict[str, Any] | None:
    """The answer that was kept; None where there is none or it isn't what was written."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        found = None
    if is_proven(found, question):
        return dict(found)
    say(f"  what the cache has in {path} was damaged or changed; it is found out anew")
    return None


def is_proven(found: Any, question: str) -> bool:
    return isinstance(found, dict) and found.get(PROOF) == proof(question, found)


def damaged(folder: Path) -> list[Path]:
    """The kept answers of a folder that can't be read at all, or carry no proof."""
    bad = []
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_bytes())
            if not isinstance(found, dict) or PROOF not in found:
                bad.append(path)
        except (OSError, ValueError, RecursionError):
            bad.append(path)
    return bad
