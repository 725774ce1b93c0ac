# SPDX-License-Identifier: Apache-2.0
"""What stands in a wheel, and in an index of wheels."""

from __future__ import annotations

import zipfile
from pathlib import Path

from packaging.version import Version

from recipe.bases.releases import Bases
from recipe.build.testing import wheel_requirements
from recipe.gpu import arch, code, fatbin, kernel_names
from recipe.gpu.audit.wheels import open_wheel
from recipe.wheel import read
from recipe.wheel.check import check_wheel
from recipe.wheel.index import entry, pages, serve
from recipe.wheel.metadata import set_metadata_version, set_version_file, set_wheel_tag
from tests.fuzz.parser import CORPUS, Parser, text
from tests.recipe import small
from tests.recipe.packages import pure_wheel

NAME = "vllm-9.1.0-1-cp38-abi3-linux_x86_64.whl"
INFO = small.INFO
NONE = Bases(revision=1, releases=())


def wheel(content: bytes, folder: Path) -> None:
    path = folder / NAME
    path.write_bytes(content)
    entry.entry_of(path)
    open_wheel(path, NONE)
    code.wheel_code(path)


def wheels() -> list[bytes]:
    (binary,) = (CORPUS / "shared-object").glob("real")
    members = {"vllm/_C.abi3.so": binary.read_bytes()}
    plain = pure_wheel("vllm", "9.1.0", members, "Requires-Python: >=3\n")
    return [plain, small.make_wheel(binary=binary.read_bytes())]


def with_member(folder: Path, member: str, content: bytes) -> Path:
    """A wheel in which one member of .dist-info has this content."""
    files = {"METADATA": small.METADATA, "WHEEL": small.WHEEL, "RECORD": b"", member: content}
    path = folder / NAME
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"{INFO}/{name}", text)
    return path


def record(content: bytes, folder: Path) -> None:
    path = with_member(folder, "RECORD", content)
    with read.opened(path) as archive:
        read.read_record(archive, INFO)
    check_wheel(path, version="9.1.0", expected={})


def records() -> list[bytes]:
    members = {"METADATA": small.METADATA, "WHEEL": small.WHEEL}
    rows = "".join(small.record_row(f"{INFO}/{name}", text) for name, text in members.items())
    return [rows.encode() + small.RECORD_TAIL, (rows + '"a, b",,\n').encode()]


def metadata(content: bytes, folder: Path) -> None:
    entry.fields("x.whl", content)
    path = with_member(folder, "METADATA", content)
    open_wheel(path, NONE)
    wheel_requirements(path)
    set_metadata_version(content, "9.1.0+sm12x.1")


def tags(content: bytes, folder: Path) -> None:
    open_wheel(with_member(folder, "WHEEL", content), NONE)
    set_wheel_tag(content, "manylinux_2_28_x86_64")


def version_file(content: bytes, folder: Path) -> None:
    set_version_file(content, "9.1.0+sm12x.1")


def page(content: bytes, folder: Path) -> None:
    pages.published_hashes(content)


def own_pages() -> list[bytes]:
    one = entry.Entry(
        name=NAME,
        project="vllm",
        version=Version("9.1.0"),
        size=3,
        sha256="ab" * 32,
        requires_python=">=3.10",
        metadata=small.METADATA,
    )
    return [pages.project_json("vllm", [one])]


def request(content: bytes, folder: Path) -> None:
    given = content.decode("latin-1")
    serve.chosen_form(given)
    (folder / "files").mkdir()
    (folder / "files" / NAME).touch()
    (folder.parent / "secret").touch()
    found = serve.place_of(folder, given)
    assert found is None or found.resolve().is_relative_to(folder.resolve()), found


def fat_binary(content: bytes, folder: Path) -> None:
    units = fatbin.read(content)
    for unit in units:
        for image in unit:
            arch.serves(image.target, "12.1")


def gpu_section(content: bytes, folder: Path) -> None:
    """The same from the section on, which changes of bytes seldom get to."""
    try:
        list(fatbin.containers(memoryview(content)))
    except fatbin.DAMAGE as error:
        raise fatbin.BadCode(str(error)) from None


def shared_objects() -> list[bytes]:
    return [small.shared_object()[:8192]]


def kernel(content: bytes, folder: Path) -> None:
    for name in text(content).split("\n"):
        kernel_names.family(name, "_C")


def architectures(content: bytes, folder: Path) -> None:
    arch.parse(text(content))


PARSERS = (
    Parser(name="wheel", read=wheel, made=wheels, largest=16 << 10),
    Parser(name="wheel-record", read=record, made=records),
    Parser(name="wheel-metadata", read=metadata, made=lambda: [small.METADATA]),
    Parser(name="wheel-tags", read=tags, made=lambda: [small.WHEEL]),
    Parser(name="version-file", read=version_file, made=lambda: [small.VERSION_FILE]),
    Parser(name="own-index-page", read=page, refuses=(ValueError,), made=own_pages),
    Parser(name="index-request", read=request),
    Parser(
        name="shared-object",
        read=fat_binary,
        refuses=(fatbin.BadCode,),
        made=shared_objects,
        largest=16 << 10,
    ),
    Parser(name="fat-binary", read=gpu_section, refuses=(fatbin.BadCode,), largest=8 << 10),
    Parser(name="kernel-names", read=kernel),
    Parser(name="architectures", read=architectures, made=lambda: [b"12.0;12.1a 9.0+PTX"]),
)
