# SPDX-License-Identifier: Apache-2.0
"""The wheel's bill of materials: CycloneDX 1.6, in .dist-info/sboms/ (PEP 770).

It says what the wheel descends from (upstream's source archive and published wheel, by hash) and
lists every patch as pedigree, with its text. Like the record it depends on nothing but the inputs.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from recipe.bases.releases import InnerPin
from recipe.series.patch import Patch
from recipe.wheel.origin import Origin

FILE = "vllm-sm12x.cdx.json"
# A name space of our own, so that the same wheel always has the same serial number.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:vllm-sm12x:sbom")


def sbom(origin: Origin) -> bytes:
    """The document for a planned wheel."""
    version = origin.version
    serial = uuid.uuid5(NAMESPACE, f"{version} {origin.machine} {origin.series.digest}")
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
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
            }
        },
        "components": [inner(pin) for pin in origin.base.inner],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


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
    """A source that upstream's build fetches, at the commit or tag it names."""
    return {
        "type": "library",
        "bom-ref": f"inner:{pin.name}",
        "name": pin.name,
        "version": pin.pin,
        "externalReferences": [{"type": "vcs", "url": pin.repository}],
    }
