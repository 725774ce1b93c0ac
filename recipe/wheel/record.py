# SPDX-License-Identifier: Apache-2.0
"""What a wheel says of its own making: .dist-info/sm12x/record.json and the patches beside it.

Nothing here depends on the machine or the hour, so it doesn't disturb the wheel's bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import Any

from recipe.bases.releases import Archive, InnerPin
from recipe.ground.digest import sha256
from recipe.series.topics import Topic
from recipe.wheel import sbom
from recipe.wheel.components import Action, Component
from recipe.wheel.metadata import info_folder
from recipe.wheel.origin import Origin

SCHEMA = 2
FOLDER = "sm12x"
FILE = f"{FOLDER}/record.json"
# No file has its own hash in it.
HASHES_OF_THE_REST = (
    "RECORD has the sha256 of this file, and the statement beside the wheel (*.whl.intoto.json) "
    "that of the whole wheel, with RECORD"
)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What was made of upstream's wheel.

    files: new content by path. before: upstream's sha256 by path, of the members that it had.
    removed: paths that are gone. metadata: content of what says version and tag, by member.
    reused: sha256 by member of upstream's binaries that stay. compiled: those that are ours. built:
    what decides the compiled bytes, empty where none are ours.
    """

    components: tuple[Component, ...]
    files: Mapping[str, bytes]
    before: Mapping[str, str]
    removed: Set[str]
    metadata: Mapping[str, bytes]
    reused: Mapping[str, str]
    compiled: Mapping[str, str]
    built: Mapping[str, Any]


def record_files(origin: Origin, made: Changes) -> dict[str, bytes]:
    """The new members of .dist-info: record, bill of materials, every patch that was applied."""
    members = {f"{FOLDER}/patches/{patch.path}": patch.content for patch in origin.series.patches}
    series = "".join(f"{patch.path}\n" for patch in origin.series.patches)
    members[f"{FOLDER}/patches/series"] = series.encode()
    members[f"sboms/{sbom.FILE}"] = sbom.sbom(origin, made.reused, made.compiled, tools(made))
    info = info_folder(origin.version)
    ours = {f"{info}/{name}": content for name, content in members.items()}
    found = record(origin, made) | {"metadata": hashed({**ours, **made.metadata})}
    members[FILE] = (json.dumps(found, indent=1, sort_keys=True) + "\n").encode()
    return members


def record(origin: Origin, made: Changes) -> dict[str, Any]:
    """The document of record.json, but for the hashes of what lies beside it."""
    overlay = {file.path for file in origin.series.files}
    return {
        "schema": SCHEMA,
        "base": origin.base.tag,
        "upstream_commit": origin.base.commit,
        "source": origin.source.origin,
        "published_wheel": pinned(origin.published),
        "inputs": inputs(origin),
        "version": origin.version,
        "torch": origin.base.torch,
        "cuda": origin.base.cuda,
        "patchset_digest": origin.series.digest,
        "commit": origin.applied.head,
        "tree": origin.tree,
        "patches": [
            {
                "path": p.path,
                "topic": p.topic,
                "subject": p.subject,
                "origin": p.origin,
                "pull_request": p.pull_request,
                "sha256": sha256(p.content),
            }
            for p in origin.series.patches
        ],
        "topics": [topic_entry(topic) for topic in origin.series.topics],
        "overlay": [
            {"path": file.path, "mode": file.mode, "sha256": sha256(file.content)}
            for file in sorted(origin.series.files, key=lambda file: file.path)
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
        "binaries": [
            {"path": path, "by": by, "sha256": digest}
            for by, found in (("compiled", made.compiled), ("upstream", made.reused))
            for path, digest in sorted(found.items())
        ],
        "compiled": dict(made.built),
        "toolchain": tools(made),
        "hashes_of_the_rest": HASHES_OF_THE_REST,
        "not_in_this_wheel": missing(origin, made.components),
    }


def inputs(origin: Origin) -> dict[str, Any]:
    """Everything that went in, by hash and by tree id where it has one."""
    source: dict[str, Any] = {"kind": origin.source.kind, "tree": origin.source_tree}
    if origin.source.kind == "sdist":
        source["archive"] = pinned(origin.base.sdist)
    inner = sorted((*origin.base.inner, *origin.base.lifted), key=lambda pin: pin.name)
    return {
        "source": source,
        "published_wheel": pinned(origin.published),
        "inner": [inner_entry(pin, lifted=pin in origin.base.lifted) for pin in inner],
    }


def pinned(archive: Archive) -> dict[str, Any]:
    return {"name": archive.name, "sha256": archive.sha256, "size": archive.size}


def inner_entry(pin: InnerPin, *, lifted: bool) -> dict[str, Any]:
    """A source that upstream's build fetches; lifted: the overlay puts it in another's place."""
    return {
        "name": pin.name,
        "repository": pin.repository,
        "pin": pin.pin,
        "commit": pin.commit,
        "tree": pin.tree,
        "lifted": lifted,
    }


def topic_entry(topic: Topic) -> dict[str, Any]:
    patch = topic.patch
    return {
        "topic": topic.name,
        "state": topic.state,
        "patch": patch.path if patch else None,
        "pull_request": patch.pull_request if patch else None,
    }


def tools(made: Changes) -> dict[str, str]:
    """What decided a byte of this wheel and isn't of this repository, with versions."""
    compilers = {name: str(made.built[name]) for name in TOOLS if name in made.built}
    return {"auditwheel": version_of("auditwheel"), **compilers}


# What of `Changes.built` names a tool by its version.
TOOLS = ("compiler", "cuda", "python", "torch")


def hashed(members: Mapping[str, bytes]) -> list[dict[str, str]]:
    return [{"path": name, "sha256": sha256(content)} for name, content in sorted(members.items())]


def hexadecimal(row: str) -> str:
    """The sha256 that a row of RECORD has, in hexadecimal."""
    text = row.removeprefix("sha256=")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()


def missing(origin: Origin, components: tuple[Component, ...]) -> list[str]:
    """What the patched tree has and this wheel lacks, a sentence each."""
    stale = [f"{c.name}: {c.why}" for c in components if c.action == Action.STALE]
    stale += [f"{c.name}: {c.lacks}" for c in components if c.lacks]
    if origin.not_carried:
        stale.append(
            f"build scripts, which are in the source tree only: {', '.join(origin.not_carried)}"
        )
    return stale
