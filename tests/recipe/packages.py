# SPDX-License-Identifier: Apache-2.0
"""Small packages for an index."""

from __future__ import annotations

import io
import zipfile

from tests.recipe import small


def pure_wheel(name: str, version: str, members: dict[str, bytes], more: str = "") -> bytes:
    """more: further lines of METADATA."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    whole = {
        **members,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": tags.encode(),
    }
    record = "".join(small.record_row(key, value) for key, value in whole.items())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for key, value in {
            **whole,
            f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode(),
        }.items():
            member = zipfile.ZipInfo(key, date_time=(2026, 1, 2, 3, 4, 6))
            member.external_attr = (0o100755 if value.startswith(b"#!") else 0o100644) << 16
            archive.writestr(member, value)
    return out.getvalue()
