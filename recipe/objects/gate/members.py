# SPDX-License-Identifier: Apache-2.0
"""The members of a zip archive, a wheel, through the gate of names."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable

from recipe.objects.gate.names import Gate, escaped


def check_members(archive: zipfile.ZipFile, refuse: Callable[[str, str], Exception]) -> None:
    """`refuse`'s error for a name that is more than a file's below where an archive is unpacked,
    for two members that are one there, and for what is neither file nor folder."""
    gate = Gate(refuse=refuse)
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.filename != info.orig_filename:
            raise refuse(escaped(info.orig_filename), "has a name that ends in the middle")
        if info.is_dir():
            gate.admit_folder(info.filename.rstrip("/"))
            continue
        if kind not in (0, stat.S_IFREG):
            raise refuse(escaped(info.filename), "is neither a file nor a folder")
        gate.admit(info.filename, "100644", 0)  # sizes have bounds of their own
