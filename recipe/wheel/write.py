# SPDX-License-Identifier: Apache-2.0
"""Write our wheel from upstream's: patched files, overlay files, version, record. Byte for byte."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

from packaging.utils import parse_wheel_filename

from recipe.wheel.layout import Edit, Laid, lay_out
from recipe.wheel.read import opened


def names_in(wheel: Path) -> list[str]:
    """The members of a wheel, by their paths."""
    with opened(wheel) as archive:
        return archive.namelist()


def wheel_name(published: str, version: str, platform: str) -> str:
    """``vllm-0.33.0+sm12x.1-cp38-abi3-manylinux_2_28_x86_64.whl``: no build tag, our version."""
    name, _, _, tags = parse_wheel_filename(published)
    tag = next(iter(tags))
    return f"{name}-{version}-{tag.interpreter}-{tag.abi}-{platform}.whl"


def write_wheel(published: Path, target: IO[bytes], edit: Edit) -> None:
    """Write the edited wheel to `target`; SourceError if the wheel isn't of the same sources."""
    with opened(published) as old, zipfile.ZipFile(target, "w", allowZip64=True) as new:
        for laid in lay_out(old, edit):
            put(new, laid)


def put(new: zipfile.ZipFile, laid: Laid) -> None:
    """Add a member whose bytes are there as they are to lie in the archive.

    zipfile has no way to add compressed bytes: the header is written here, and the member is
    entered into the list that becomes the central directory. What is written stays: nothing is
    gone back to.
    """
    sink, info = new.fp, laid.info
    assert sink is not None
    sink.seek(new.start_dir)
    info.header_offset = sink.tell()
    sink.write(info.FileHeader(zip64=False))
    for block in laid.blocks():
        sink.write(block)
    new.filelist.append(info)
    new.NameToInfo[info.filename] = info
    new.start_dir = sink.tell()
