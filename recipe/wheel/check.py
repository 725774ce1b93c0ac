# SPDX-License-Identifier: Apache-2.0
"""Open a finished wheel and hold it against what it says of itself."""

from __future__ import annotations

import base64
import hashlib
import logging
import zipfile
from collections.abc import Mapping
from importlib.metadata import version as version_of
from pathlib import Path

from recipe.ground import proven, scratch
from recipe.ground.errors import AuditError
from recipe.wheel.read import LARGEST_TEXT, content_of, dist_info, opened, read_record


def check_wheel(path: Path, *, version: str, expected: dict[str, str]) -> None:
    """Every member against RECORD, the version, and `expected` (member to sha256, hexadecimal)."""
    with opened(path) as wheel:
        info = dist_info(wheel)
        recorded = read_record(wheel, info)
        names = wheel.namelist()
        if len(names) != len(set(names)):
            raise broken(path, "a member stands in it twice")
        if set(names) != set(recorded):
            odd = sorted(set(names) ^ set(recorded))[:3]
            raise broken(path, f"RECORD and the archive differ in {', '.join(odd)}")
        for name in names:
            found = member_hash(wheel, name)
            want = recorded[name][0]
            text = "sha256=" + base64.urlsafe_b64encode(found).rstrip(b"=").decode()
            if want and want != text:
                raise broken(path, f"{name} is not what RECORD says")
            if expected.get(name, found.hex()) != found.hex():
                raise broken(path, f"{name} is not the patched tree's file")
        missing = sorted(set(expected) - set(names))
        if missing:
            raise broken(path, f"{missing[0]} is not in it")
        metadata = content_of(wheel, path, f"{info}/METADATA", LARGEST_TEXT)
        if f"\nVersion: {version}\n".encode() not in metadata:
            raise broken(path, f"METADATA doesn't say Version: {version}")


def member_hash(wheel: zipfile.ZipFile, name: str) -> bytes:
    """The sha256 of a member; reading to the end checks its CRC too."""
    found = hashlib.sha256()
    with wheel.open(name) as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.digest()


def platform_tag(published: Path, sha256: str, cache: Path) -> str:
    """The manylinux tag that the symbols of the wheel's shared objects allow (PEP 600).

    auditwheel reads the glibc and libstdc++ versions each object asks for. Libraries that torch and
    CUDA bring are left outside the wheel on purpose, so only the symbol rule counts here. What a
    pinned wheel needs never changes: the answer is kept by its hash.
    """
    stored = cache / "audit" / f"{sha256}.json"
    question = f"platform tag of {sha256} by auditwheel {version_of('auditwheel')}"
    found = proven.recall(stored, question)
    if found is not None:
        return str(found["platform"])
    tag = tag_of(published)
    proven.keep(stored, question, {"platform": tag})
    return tag


def tag_of(wheel: Path) -> str:
    """auditwheel's answer for one wheel."""
    from auditwheel.wheel_abi import analyze_wheel_abi

    logging.getLogger("auditwheel").setLevel(logging.ERROR)
    found = analyze_wheel_abi(
        None, None, wheel, frozenset(), disable_isa_ext_check=True, allow_graft=False
    )
    return str(found.sym_policy.name)


def binaries_tag(binaries: Mapping[str, Path], machine: str, cache: Path) -> str:
    """The tag that freshly compiled members allow: auditwheel looks at a wheel of them alone."""
    with scratch.folder(cache, "tag") as folder:
        wheel = folder / f"compiled-0-py3-none-linux_{machine}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, path in sorted(binaries.items()):
                archive.write(path, name)
            tags = f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-linux_{machine}\n"
            archive.writestr("compiled-0.dist-info/WHEEL", tags)
            rows = "".join(f"{name},,\n" for name in sorted(binaries))
            archive.writestr("compiled-0.dist-info/RECORD", rows)
            archive.writestr("compiled-0.dist-info/METADATA", "Name: compiled\nVersion: 0\n")
        return tag_of(wheel)


def broken(path: Path, why: str) -> AuditError:
    return AuditError(
        f"{path.name}: {why}",
        means="The wheel is not used.",
        next="run the build again; if it says the same, this is a bug of the recipe",
    )
