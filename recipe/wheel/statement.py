# SPDX-License-Identifier: Apache-2.0
"""What lies beside a wheel and may be signed: an in-toto statement with SLSA's provenance (v1).

It says of which wheel it is by hash, what was asked for, everything that went in by hash, and which
report tells of its tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe.bases.releases import InnerPin
from recipe.ground.digest import sha256
from recipe.wheel.origin import Origin

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:vllm-sm12x:build:v1"
BUILDER = "urn:vllm-sm12x:recipe"
SUFFIX = ".intoto.json"
LARGEST = 1 << 24


def beside(wheel: Path) -> Path:
    """Where the statement of a wheel lies."""
    return wheel.with_name(wheel.name + SUFFIX)


def statement(
    origin: Origin,
    *,
    subject: Mapping[str, str],
    asked: Mapping[str, Any],
    tools: Mapping[str, str],
    report: Mapping[str, str],
    tests: Mapping[str, Any],
) -> bytes:
    """The document.

    subject, report: sha256 by file name, of the wheel and of its report. asked: the options of the
    build. tools: versions by name. tests: their counts.
    """
    document = {
        "_type": TYPE,
        "subject": described(subject),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(asked),
                "internalParameters": {
                    "version": origin.version,
                    "patchset_digest": origin.series.digest,
                    "commit": origin.applied.head,
                },
                "resolvedDependencies": dependencies(origin),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": dict(tools)},
                "byproducts": [
                    {**one, "annotations": {"tests": dict(tests)}} for one in described(report)
                ],
            },
        },
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def described(files: Mapping[str, str]) -> list[dict[str, Any]]:
    """in-toto's descriptors of files by name."""
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in files.items()]


def dependencies(origin: Origin) -> list[dict[str, Any]]:
    """All that went in, each by a hash."""
    base = origin.base
    found: list[dict[str, Any]] = [
        {"name": "source", "digest": {"gitTree": origin.source_tree}},
        *described({origin.published.name: origin.published.sha256}),
    ]
    if origin.source.kind == "sdist":
        found += described({base.sdist.name: base.sdist.sha256})
    found += described({f"patches/{p.path}": sha256(p.content) for p in origin.series.patches})
    found += described({f"overlay/vllm/{f.path}": sha256(f.content) for f in origin.series.files})
    pins = sorted((*base.inner, *base.lifted), key=lambda pin: pin.name)
    return found + [one for pin in pins for one in [inner(pin)] if "digest" in one]


def inner(pin: InnerPin) -> dict[str, Any]:
    """A source that a compile takes; one pinned by a tag alone has no digest."""
    commit = pin.commit or (pin.pin if len(pin.pin) == 40 else None)
    digest = {
        **({"gitCommit": commit} if commit else {}),
        **({"gitTree": pin.tree} if pin.tree else {}),
    }
    named = {"name": pin.name, "uri": f"git+{pin.repository}@{pin.pin}"}
    return {**named, **({"digest": digest} if digest else {})}


def read_statement(wheel: Path) -> dict[str, Any] | None:
    """What lies beside a wheel; None where nothing does, {} where it is no such statement."""
    path = beside(wheel)
    try:
        with path.open("rb") as stream:
            found = json.loads(stream.read(LARGEST))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    good = isinstance(found, dict) and found.get("_type") == TYPE
    return dict(found) if good else {}


def subjects(document: Mapping[str, Any]) -> dict[str, str]:
    """sha256 by name of what a statement is of."""
    found = {}
    subject = document.get("subject")
    for one in subject if isinstance(subject, list) else []:
        if isinstance(one, dict) and isinstance(one.get("digest"), dict):
            found[str(one.get("name"))] = str(one["digest"].get("sha256"))
    return found


def asked_of(document: Mapping[str, Any] | None) -> dict[str, str]:
    """The options of the build that a statement is of."""
    found: Any = document or {}
    for key in ("predicate", "buildDefinition", "externalParameters"):
        found = found.get(key) if isinstance(found, dict) else None
    options = found if isinstance(found, dict) else {}
    return {name: value for name, value in options.items() if isinstance(value, str)}
