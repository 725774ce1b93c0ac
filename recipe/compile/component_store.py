# SPDX-License-Identifier: Apache-2.0
"""Compiled components by what decides their bytes: the same inputs compile nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from recipe.compile.configure import Build
from recipe.ground import proven
from recipe.ground.digest import sha256_of
from recipe.ground.log import say

FILES = "files.json"


def key_of(build: Build, environment: str, inner: Mapping[str, str]) -> str:
    """Over the component's commands, sources and headers, what compiles it, and the identities of
    the inner sources that it is built from."""
    text = json.dumps([asdict(build), environment, dict(inner)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def stored(folder: Path, name: str, key: str) -> dict[str, Path] | None:
    """The component's files by their path in a wheel; None if it isn't there.

    One that was damaged on the disk is thrown away and said so.
    """
    place = folder / f"{name}-{key[:16]}"
    try:
        expected = json.loads((place / FILES).read_text(encoding="utf-8"))
        good = proven.is_proven(expected, f"{name} {key}") and all(
            sha256_of(place / "files" / path) == digest
            for path, digest in expected["files"].items()
        )
        if good:
            return {path: place / "files" / path for path in expected["files"]}
    except FileNotFoundError:
        if not place.exists():
            return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass
    say(f"  {name} in the cache is damaged; it is compiled anew ({place})")
    shutil.rmtree(place, ignore_errors=True)
    return None


def is_whole(place: Path) -> bool:
    """Whether a kept component is what was compiled; for whoever doesn't ask for it by its key."""
    name = place.name.rpartition("-")[0]
    try:
        expected = json.loads((place / FILES).read_text(encoding="utf-8"))
        return proven.is_proven(expected, f"{name} {expected['key']}") and all(
            sha256_of(place / "files" / path) == digest
            for path, digest in expected["files"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def keep(folder: Path, name: str, key: str, files: Mapping[str, Path]) -> dict[str, Path]:
    """Copy a compiled component into the store, whole or not at all; its files there."""
    place = folder / f"{name}-{key[:16]}"
    temporary = folder / f".{place.name}.half-written"
    shutil.rmtree(temporary, ignore_errors=True)
    digests = {}
    for path, source in sorted(files.items()):
        target = temporary / "files" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        digests[path] = sha256_of(target)
    proven.keep(temporary / FILES, f"{name} {key}", {"key": key, "files": digests})
    shutil.rmtree(place, ignore_errors=True)
    temporary.rename(place)
    return {path: place / "files" / path for path in digests}
