# SPDX-License-Identifier: Apache-2.0
"""What a wheel says of its own making: .dist-info/sm12x/record.json and the patches beside it.

Nothing here depends on the machine or the hour, so it doesn't disturb the wheel's bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recipe.ground.digest import sha256
from recipe.wheel import sbom
from recipe.wheel.components import Action, Component
from recipe.wheel.origin import Origin

SCHEMA = 1
FOLDER = "sm12x"


def record_files(
    origin: Origin,
    components: tuple[Component, ...],
    files: Mapping[str, bytes],
    before: Mapping[str, str],
    removed: set[str],
    built: Mapping[str, Any],
) -> dict[str, bytes]:
    """The new members of .dist-info: record, bill of materials, every patch that was applied."""
    members = {f"{FOLDER}/patches/{patch.path}": patch.content for patch in origin.series.patches}
    series = "".join(f"{patch.path}\n" for patch in origin.series.patches)
    members[f"{FOLDER}/patches/series"] = series.encode()
    document = record(origin, components, files, before, removed, built)
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    members[f"{FOLDER}/record.json"] = text.encode()
    members[f"sboms/{sbom.FILE}"] = sbom.sbom(origin)
    return members


def record(
    origin: Origin,
    components: tuple[Component, ...],
    files: Mapping[str, bytes],
    before: Mapping[str, str],
    removed: set[str],
    built: Mapping[str, Any],
) -> dict[str, Any]:
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
                "upstream_sha256": before.get(path),
            }
            for path, content in sorted(files.items())
        ],
        "removed": sorted(removed),
        "components": [
            {"name": c.name, "action": c.action, "why": c.why, "files": list(c.files)}
            for c in components
        ],
        "compiled": dict(built),
        "not_in_this_wheel": missing(origin, components),
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
