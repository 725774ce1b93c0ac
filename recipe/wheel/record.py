# SPDX-License-Identifier: Apache-2.0
"""What a wheel says of its own making: .dist-info/sm12x/record.json and the patches beside it.

Nothing here depends on the machine or the hour, so it doesn't disturb the wheel's bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from recipe.ground.digest import sha256
from recipe.wheel import sbom
from recipe.wheel.components import Action, Component
from recipe.wheel.origin import Origin

SCHEMA = 1
FOLDER = "sm12x"


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What was made of upstream's wheel.

    files: new content by path. before: upstream's sha256 by path, of the members that it had.
    removed: paths that are gone. built: what decides the compiled bytes, empty where none are ours.
    """

    components: tuple[Component, ...]
    files: Mapping[str, bytes]
    before: Mapping[str, str]
    removed: Set[str]
    built: Mapping[str, Any]


def record_files(origin: Origin, made: Changes) -> dict[str, bytes]:
    """The new members of .dist-info: record, bill of materials, every patch that was applied."""
    members = {f"{FOLDER}/patches/{patch.path}": patch.content for patch in origin.series.patches}
    series = "".join(f"{patch.path}\n" for patch in origin.series.patches)
    members[f"{FOLDER}/patches/series"] = series.encode()
    text = json.dumps(record(origin, made), indent=1, sort_keys=True) + "\n"
    members[f"{FOLDER}/record.json"] = text.encode()
    members[f"sboms/{sbom.FILE}"] = sbom.sbom(origin)
    return members


def record(origin: Origin, made: Changes) -> dict[str, Any]:
    """The document of record.json."""
    overlay = {file.path for file in origin.series.files}
    return {
        "schema": SCHEMA,
        "base": origin.base.tag,
        "upstream_commit": origin.base.commit,
        "source": origin.source.origin,
        "published_wheel": {"name": origin.published.name, "sha256": origin.published.sha256},
        "version": origin.version,
        "torch": origin.base.torch,
        "cuda": origin.base.cuda,
        "patchset_digest": origin.series.digest,
        "commit": origin.applied.head,
        "patches": [
            {"path": p.path, "topic": p.topic, "subject": p.subject, "sha256": sha256(p.content)}
            for p in origin.series.patches
        ],
        "files": [
            {
                "path": path,
                "origin": "overlay" if path in overlay else "patched",
                "sha256": sha256(content),
                "upstream_sha256": made.before.get(path),
            }
            for path, content in sorted(made.files.items())
        ],
        "removed": sorted(made.removed),
        "components": [
            {"name": c.name, "action": c.action, "why": c.why, "files": list(c.files)}
            for c in made.components
        ],
        "compiled": dict(made.built),
        "not_in_this_wheel": missing(origin, made.components),
    }


def missing(origin: Origin, components: tuple[Component, ...]) -> list[str]:
    """What the patched tree has and this wheel lacks, a sentence each."""
    stale = [f"{c.name}: {c.why}" for c in components if c.action == Action.STALE]
    stale += [f"{c.name}: {c.lacks}" for c in components if c.lacks]
    if origin.not_carried:
        stale.append(
            f"build scripts, which are in the source tree only: {', '.join(origin.not_carried)}"
        )
    return stale
