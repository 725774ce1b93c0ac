# SPDX-License-Identifier: Apache-2.0
"""Upstream's metadata with our version and tag: METADATA, WHEEL and vllm/_version.py."""

from __future__ import annotations

import zipfile

from recipe.ground.errors import AuditError

VERSION_FILE = "vllm/_version.py"


def info_folder(version: str) -> str:
    """The .dist-info folder of our wheel."""
    return f"vllm-{version}.dist-info"


def own_metadata(
    old: zipfile.ZipFile, old_info: str, version: str, platform: str
) -> dict[str, bytes]:
    """What of a published wheel says its version and tag, saying ours, by our wheel's names."""
    info = info_folder(version)
    return {
        VERSION_FILE: set_version_file(old.read(VERSION_FILE), version),
        f"{info}/METADATA": set_metadata_version(old.read(f"{old_info}/METADATA"), version),
        f"{info}/WHEEL": set_wheel_tag(old.read(f"{old_info}/WHEEL"), platform),
    }


def set_version_file(content: bytes, version: str) -> bytes:
    """``vllm/_version.py`` with our version; the commit it names stays upstream's."""
    release, _, local = version.partition("+")
    parts = ", ".join([*release.split("."), repr(local)])
    lines = []
    for line in as_text(content, VERSION_FILE).splitlines(keepends=True):
        if line.startswith("__version__ = version = "):
            line = f"__version__ = version = {version!r}\n"
        elif line.startswith("__version_tuple__ = version_tuple = "):
            line = f"__version_tuple__ = version_tuple = ({parts})\n"
        lines.append(line)
    text = "".join(lines)
    if f"version = {version!r}\n" not in text:
        raise AuditError(
            "vllm/_version.py of the published wheel names its version in an unknown way",
            next="update recipe/wheel/metadata.py for this base",
        )
    return text.encode()


def set_metadata_version(content: bytes, version: str) -> bytes:
    head, blank, body = content.partition(b"\n\n")
    lines = head.split(b"\n")
    found = [i for i, line in enumerate(lines) if line.startswith(b"Version: ")]
    pinned = [line for line in lines if line.startswith(b"Requires-Dist: torch==")]
    if len(found) != 1 or len(pinned) != 1:
        raise AuditError(
            "METADATA of the published wheel has no single Version, or doesn't fix torch",
            means="A wheel that takes any torch would load binaries made for another.",
            next="update recipe/wheel/metadata.py for this base",
        )
    lines[found[0]] = f"Version: {version}".encode()
    return b"\n".join(lines) + blank + body


def as_text(content: bytes, member: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise unknown(f"{member} of the published wheel isn't text: {error}") from None


def unknown(what: str) -> AuditError:
    return AuditError(what, next="update recipe/wheel/metadata.py for this base")


def set_wheel_tag(content: bytes, platform: str) -> bytes:
    """WHEEL with one Tag line, our generator and no build number."""
    kept = []
    for line in as_text(content, "WHEEL").splitlines():
        name, _, value = line.partition(": ")
        if name == "Tag":
            if value.count("-") < 2:
                raise unknown(f"WHEEL of the published wheel has the tag {value!r}")
            interpreter, abi, _ = value.split("-", 2)
            line = f"Tag: {interpreter}-{abi}-{platform}"
        elif name == "Generator":
            line = f"Generator: vllm-sm12x ({value})"
        elif name == "Build":
            continue
        if line and line not in kept:
            kept.append(line)
    return ("\n".join(kept) + "\n").encode()
