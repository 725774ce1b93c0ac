# SPDX-License-Identifier: Apache-2.0
"""The wheel's bill of materials: CycloneDX 1.6, in .dist-info/sboms/ (PEP 770).

It says what the wheel descends from (upstream's source archive and published wheel, by hash) and
lists every patch as pedigree, with its text; binaries and overlay files by hash, and what built it.
Like the record it depends on nothing but the inputs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

from recipe.bases.releases import InnerPin
from recipe.ground.digest import sha256
from recipe.series.patch import Patch
from recipe.wheel.origin import Origin

FILE = "vllm-sm12x.cdx.json"
# A name space of our own, so that the same wheel always has the same serial number.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:vllm-sm12x:sbom")


def sbom(
    origin: Origin,
    reused: Mapping[str, str],
    compiled: Mapping[str, str],
    tools: Mapping[str, str],
) -> bytes:
    """The document for a planned wheel.

    reused, compiled: sha256 by member of the binaries that are upstream's and ours. tools: what
    decided bytes of the wheel, each with its version.
    """
    version = origin.version
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [tool(name, text) for name, text in sorted(tools.items())]},
            "component": {
                "type": "library",
                "bom-ref": "wheel",
                "name": "vllm",
                "version": version,
                "purl": f"pkg:pypi/vllm@{version.replace('+', '%2B')}",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "pedigree": {
                    "ancestors": ancestors(origin),
                    "patches": [patch_entry(patch) for patch in origin.series.patches],
                    "notes": origin.series.digest,
                },
            },
        },
        "components": [
            *(inner(pin) for pin in origin.base.inner),
            *(file(name, found, "upstream's") for name, found in sorted(reused.items())),
            *(
                file(name, found, "compiled from the patched tree")
                for name, found in sorted(compiled.items())
            ),
            *(file(one.path, sha256(one.content), "the overlay's") for one in origin.series.files),
        ],
    }
    text = json.dumps([document, origin.machine], sort_keys=True)
    serial = {"serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, text)}"}
    return (json.dumps({**serial, **document}, indent=1) + "\n").encode()


def tool(name: str, version: str) -> dict[str, Any]:
    """Something that ran while the wheel was made."""
    return {"type": "application", "bom-ref": f"tool:{name}", "name": name, "version": version}


def file(path: str, digest: str, whose: str) -> dict[str, Any]:
    """A file of the wheel, or of the source tree that it is from."""
    return {
        "type": "file",
        "bom-ref": f"file:{path}",
        "name": path,
        "description": whose,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def ancestors(origin: Origin) -> list[dict[str, Any]]:
    """Upstream's source archive, which is patched, and the wheel that the binaries are from."""
    version = str(origin.base.version)
    return [
        {
            "type": "library",
            "bom-ref": f"upstream:{archive.name}",
            "name": "vllm",
            "version": version,
            "purl": f"pkg:pypi/vllm@{version}?file_name={archive.name}",
            "hashes": [{"alg": "SHA-256", "content": archive.sha256}],
        }
        for archive in (origin.base.archive, origin.published)
        if archive is not None
    ]


def patch_entry(patch: Patch) -> dict[str, Any]:
    return {
        "type": "unofficial",
        "diff": {
            "text": {
                "contentType": "text/x-patch",
                "content": patch.content.decode("utf-8", "replace"),
            }
        },
    }


def inner(pin: InnerPin) -> dict[str, Any]:
    """A source that upstream's build fetches, at the commit or tag it names.

    What git gives as its commit and tree isn't a hash of a file, so they are properties.
    """
    ids = {"commit": pin.commit, "tree": pin.tree}
    return {
        "type": "library",
        "bom-ref": f"inner:{pin.name}",
        "name": pin.name,
        "version": pin.pin,
        "externalReferences": [{"type": "vcs", "url": pin.repository}],
        "properties": [
            {"name": f"vllm-sm12x:git-{name}", "value": found}
            for name, found in ids.items()
            if found
        ],
    }
