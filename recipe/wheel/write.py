# SPDX-License-Identifier: Apache-2.0
"""Write our wheel from upstream's: patched files, overlay files, version, record. Byte for byte.

Members that stay are copied as they lie in upstream's archive, still compressed: that takes seconds
and doesn't depend on a compressor. Members we write are stored uncompressed with a fixed date, so
no zlib version can change a byte.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from packaging.utils import parse_wheel_filename

from recipe.ground.errors import AuditError, SourceError
from recipe.wheel.read import dist_info, opened, read_record

# The oldest date a zip archive can hold.
DATE = (1980, 1, 1, 0, 0, 0)
DATE_SECONDS = 315532800  # the same, as SOURCE_DATE_EPOCH counts
LOCAL_HEADER = struct.Struct("<4s5H3L2H")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What to change in a published wheel.

    before: the content upstream's tree has for each replaced member (sha256), to be found in the
    wheel too. files: content of replaced and new members by name, removed: names left out. record:
    new members of .dist-info.
    """

    version: str
    platform: str
    before: Mapping[str, str]
    files: Mapping[str, bytes]
    removed: frozenset[str]
    record: Mapping[str, bytes]
    binaries: Mapping[str, Path] = field(default_factory=dict)


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
        old_info = dist_info(old)
        new_info = f"vllm-{edit.version}.dist-info"
        written = own_members(old, old_info, new_info, edit)
        check_sources(old, edit)
        recorded = read_record(old, old_info)
        rows: list[tuple[str, str, str]] = []
        drop = {*edit.removed, f"{old_info}/RECORD"}
        replaced = {*written, *edit.binaries}
        for info in old.infolist():
            name = info.filename.replace(f"{old_info}/", f"{new_info}/", 1)
            if info.filename in drop or name in replaced or info.is_dir():
                continue
            copy_member(old, new, info, name)
            rows.append((name, *recorded[info.filename]))
        for name, content in sorted(written.items()):
            store_member(new, name, content)
            rows.append((name, f"sha256={digest(content)}", str(len(content))))
        for name, path in sorted(edit.binaries.items()):
            rows.append((name, *pack_member(new, name, path)))
        rows.append((f"{new_info}/RECORD", "", ""))
        store_member(new, f"{new_info}/RECORD", record_text(rows))


def own_members(old: zipfile.ZipFile, old_info: str, new_info: str, edit: Edit) -> dict[str, bytes]:
    """Every member we write ourselves, by its new name."""
    metadata = old.read(f"{old_info}/METADATA")
    written = {
        "vllm/_version.py": set_version_file(old.read("vllm/_version.py"), edit.version),
        f"{new_info}/METADATA": set_metadata_version(metadata, edit.version),
        f"{new_info}/WHEEL": set_wheel_tag(old.read(f"{old_info}/WHEEL"), edit.platform),
    }
    written.update(edit.files)
    for name, content in edit.record.items():
        written[f"{new_info}/{name}"] = content
    return written


def check_sources(old: zipfile.ZipFile, edit: Edit) -> None:
    """A file we replace must be in the wheel as it is in the source tree the patch was made for."""
    names = set(old.namelist())
    for name, expected in edit.before.items():
        if name not in names:
            continue  # upstream doesn't ship it; ours is added
        if hashlib.sha256(old.read(name)).hexdigest() != expected:
            raise SourceError(
                f"{name} in the published wheel differs from the source tree",
                means="The wheel was built from other sources than the patches apply to.",
                next="build from the pinned archive: --source sdist",
            )


def set_version_file(content: bytes, version: str) -> bytes:
    """``vllm/_version.py`` with our version; the commit it names stays upstream's."""
    release, _, local = version.partition("+")
    parts = ", ".join([*release.split("."), repr(local)])
    lines = []
    for line in as_text(content, "vllm/_version.py").splitlines(keepends=True):
        if line.startswith("__version__ = version = "):
            line = f"__version__ = version = {version!r}\n"
        elif line.startswith("__version_tuple__ = version_tuple = "):
            line = f"__version_tuple__ = version_tuple = ({parts})\n"
        lines.append(line)
    text = "".join(lines)
    if f"version = {version!r}\n" not in text:
        raise AuditError(
            "vllm/_version.py of the published wheel names its version in an unknown way",
            next="update recipe/wheel/write.py for this base",
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
            next="update recipe/wheel/write.py for this base",
        )
    lines[found[0]] = f"Version: {version}".encode()
    return b"\n".join(lines) + blank + body


def as_text(content: bytes, member: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise unknown(f"{member} of the published wheel isn't text: {error}") from None


def unknown(what: str) -> AuditError:
    return AuditError(what, next="update recipe/wheel/write.py for this base")


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


def pack_member(new: zipfile.ZipFile, name: str, path: Path) -> tuple[str, str]:
    """Compress a compiled member into the wheel; its (hash, size) for RECORD.

    The bytes of a compile are those of its compilers; zlib's may be its own machine's as well.
    """
    info = zipfile.ZipInfo(name, date_time=DATE)
    info.external_attr = 0o100755 << 16
    info.create_system = 3
    info.compress_type = zipfile.ZIP_DEFLATED
    found, size = hashlib.sha256(), 0
    with path.open("rb") as source, new.open(info, "w") as sink:
        while block := source.read(1 << 20):
            found.update(block)
            size += len(block)
            sink.write(block)
    text = base64.urlsafe_b64encode(found.digest()).rstrip(b"=").decode()
    return f"sha256={text}", str(size)


def copy_member(
    old: zipfile.ZipFile, new: zipfile.ZipFile, info: zipfile.ZipInfo, name: str
) -> None:
    """Copy one member's compressed bytes under a (perhaps) new name."""
    fresh = zipfile.ZipInfo(name, date_time=info.date_time)
    fresh.compress_type = info.compress_type
    fresh.external_attr = info.external_attr
    fresh.create_system = info.create_system
    fresh.CRC = info.CRC
    fresh.compress_size = info.compress_size
    fresh.file_size = info.file_size
    source = old.fp
    assert source is not None
    source.seek(info.header_offset)
    header = LOCAL_HEADER.unpack(source.read(LOCAL_HEADER.size))
    source.seek(header[9] + header[10], io.SEEK_CUR)  # the name and the extra field
    with open_member(new, fresh) as sink:
        left = info.compress_size
        while left > 0:
            block = source.read(min(left, 1 << 20))
            if not block:
                raise AuditError(f"{old.filename} ends inside {info.filename}")
            sink.write(block)
            left -= len(block)


def store_member(new: zipfile.ZipFile, name: str, content: bytes) -> None:
    info = zipfile.ZipInfo(name, date_time=DATE)
    info.external_attr = 0o100644 << 16
    info.create_system = 3  # Unix, whatever machine this is
    new.writestr(info, content, compress_type=zipfile.ZIP_STORED)


@contextmanager
def open_member(new: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """The archive's stream, positioned for a member whose sizes and CRC are known already.

    zipfile has no way to add compressed bytes: the header is written here, and the member is
    entered into the list that becomes the central directory.
    """
    sink = new.fp
    assert sink is not None
    sink.seek(new.start_dir)
    info.header_offset = sink.tell()
    sink.write(info.FileHeader(zip64=False))
    yield sink
    new.filelist.append(info)
    new.NameToInfo[info.filename] = info
    new.start_dir = sink.tell()


def record_text(rows: list[tuple[str, str, str]]) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(sorted(rows))
    return out.getvalue().encode()


def digest(content: bytes) -> str:
    """The hash as RECORD writes it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
