# SPDX-License-Identifier: Apache-2.0
"""What a wheel says of its own making: .dist-info/sm12x/record.json and the patches beside it.

Nothing here depends on the machine or the hour, so it doesn't disturb the wheel's bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recipe.build.plan import Plan
from recipe.ground.digest import sha256
from recipe.wheel import sbom
from recipe.wheel.components import Action, Component

SCHEMA = 1
FOLDER = "sm12x"


def record_files(
    plan: Plan,
    components: tuple[Component, ...],
    files: Mapping[str, bytes],
    before: Mapping[str, str],
    removed: set[str],
    built: Mapping[str, Any],
) -> dict[str, bytes]:
    """The new members of .dist-info: record, bill of materials, every patch that was applied."""
    members = {f"{FOLDER}/patches/{patch.path}": patch.content for patch in plan.series.patches}
    series = "".join(f"{patch.path}\n" for patch in plan.series.patches)
    members[f"{FOLDER}/patches/series"] = series.encode()
    document = record(plan, components, files, before, removed, built)
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    members[f"{FOLDER}/record.json"] = text.encode()
    members[f"sboms/{sbom.FILE}"] = sbom.sbom(plan)
    return members


def record(
    plan: Plan,
    components: tuple[Component, ...],
    files: Mapping[str, bytes],
    before: Mapping[str, str],
    removed: set[str],
    built: Mapping[str, Any],
) -> dict[str, Any]:
    overlay = {file.path for file in plan.series.files}
    return {
        "schema": SCHEMA,
        "base": plan.base.tag,
        "upstream_commit": plan.base.commit,
        "source": plan.source.origin,
        "published_wheel": {"name": plan.published.name, "sha256": plan.published.sha256},
        "version": plan.version,
        "torch": plan.base.torch,
        "cuda": plan.base.cuda,
        "patchset_digest": plan.series.digest,
        "commit": plan.applied.head,
        "patches": [
            {"path": p.path, "topic": p.topic, "subject": p.subject, "sha256": sha256(p.content)}
            for p in plan.series.patches
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
        "not_in_this_wheel": missing(plan, components),
    }


def missing(plan: Plan, components: tuple[Component, ...]) -> list[str]:
    """What the patched tree has and this wheel lacks, a sentence each."""
    stale = [f"{c.name}: {c.why}" for c in components if c.action == Action.STALE]
    stale += [f"{c.name}: {c.lacks}" for c in components if c.lacks]
    if plan.not_carried:
        stale.append(
            f"build scripts, which are in the source tree only: {', '.join(plan.not_carried)}"
        )
    return stale
