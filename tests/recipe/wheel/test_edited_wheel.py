# SPDX-License-Identifier: Apache-2.0
"""The wheel we write from upstream's: RECORD, version, tag, and every other byte as it was."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from recipe.ground.errors import AuditError, SourceError
from recipe.wheel.check import check_wheel
from recipe.wheel.layout import Edit
from recipe.wheel.write import wheel_name, write_wheel
from tests.recipe import small

OURS = "9.1.0+sm12x.4"
NEW_INFO = f"vllm-{OURS}.dist-info"
PLATFORM = "manylinux_2_28_x86_64"
FILES = {
    "vllm/model.py": b"patched = 1\n",
    "vllm/new, with comma.py": b"added = 1\n",
    "vllm/sm12x/__init__.py": b"",
}
EDIT = Edit(
    version=OURS,
    platform=PLATFORM,
    before={"vllm/model.py": small.sha256(small.PACKAGE["vllm/model.py"])},
    files=FILES,
    removed=frozenset({"vllm/envs.py"}),
    record={"sm12x/record.json": b"{}\n", "sm12x/patches/series": b"one\n"},
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Upstream's wheel and ours."""

    old: Path
    new: Path


def make(folder: Path, edit: Edit = EDIT, published: bytes | None = None) -> Pair:
    folder.mkdir(exist_ok=True)
    old = folder / small.WHEELS["x86_64"]
    old.write_bytes(small.make_wheel() if published is None else published)
    new = folder / wheel_name(old.name, edit.version, edit.platform)
    with new.open("wb") as target:
        write_wheel(old, target, edit)
    return Pair(old=old, new=new)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make(tmp_path / "wheels")


def raw_member(path: Path, name: str) -> bytes:
    """A member's bytes as they lie in the archive, still compressed."""
    with zipfile.ZipFile(path) as wheel:
        info = wheel.getinfo(name)
    content = path.read_bytes()
    lengths = struct.unpack_from("<2H", content, info.header_offset + 26)  # name and extra field
    start = info.header_offset + 30 + sum(lengths)
    return content[start : start + info.compress_size]


def test_the_name_has_our_version_the_tag_and_no_build_number(pair: Pair) -> None:
    assert pair.new.name == f"vllm-{OURS}-cp38-abi3-{PLATFORM}.whl"


def test_record_holds_every_member_with_its_hash_and_size(pair: Pair) -> None:
    with zipfile.ZipFile(pair.new) as wheel:
        rows = list(csv.reader(io.StringIO(wheel.read(f"{NEW_INFO}/RECORD").decode())))
        assert sorted(row[0] for row in rows) == sorted(wheel.namelist())
        for name, digest, size in rows:
            if name == f"{NEW_INFO}/RECORD":
                assert (digest, size) == ("", "")
                continue
            content = wheel.read(name)
            want = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, int(size)) == (f"sha256={want}", len(content)), name


def test_members_that_stay_keep_their_compressed_bytes_and_modes(pair: Pair) -> None:
    kept = ["vllm/__init__.py", "vllm/data/table, with comma.json", "vllm/_C.abi3.so"]
    for name in kept:
        assert raw_member(pair.new, name) == raw_member(pair.old, name)
    with zipfile.ZipFile(pair.old) as old, zipfile.ZipFile(pair.new) as new:
        for name in kept:
            assert new.read(name) == old.read(name)
            assert new.getinfo(name).external_attr == old.getinfo(name).external_attr
            assert new.getinfo(name).date_time == old.getinfo(name).date_time


def test_members_are_replaced_added_and_removed(pair: Pair) -> None:
    with zipfile.ZipFile(pair.new) as wheel:
        names = set(wheel.namelist())
        for name, content in FILES.items():
            assert wheel.read(name) == content
        assert wheel.read(f"{NEW_INFO}/sm12x/record.json") == b"{}\n"
        assert wheel.read(f"{NEW_INFO}/sm12x/patches/series") == b"one\n"
    assert "vllm/envs.py" not in names
    assert not [name for name in names if name.startswith(f"{small.INFO}/")]


def test_version_and_tag_are_ours_wherever_they_stand(pair: Pair) -> None:
    with zipfile.ZipFile(pair.new) as wheel:
        metadata = wheel.read(f"{NEW_INFO}/METADATA").decode()
        tags = wheel.read(f"{NEW_INFO}/WHEEL").decode()
        names: dict[str, object] = {}
        exec(wheel.read("vllm/_version.py"), names)
    assert metadata == small.METADATA.decode().replace("Version: 9.1.0\n", f"Version: {OURS}\n", 1)
    assert f"\nTag: cp38-abi3-{PLATFORM}\n" in tags
    assert tags.count("Tag: ") == 1
    assert "Build:" not in tags
    assert "Root-Is-Purelib: false" in tags
    assert names["__version__"] == names["version"] == OURS
    assert names["version_tuple"] == (9, 1, 0, "sm12x.4")
    assert names["commit_id"] == f"g{small.COMMIT}"


def test_the_same_inputs_give_the_same_bytes(pair: Pair, tmp_path: Path) -> None:
    assert make(tmp_path / "again").new.read_bytes() == pair.new.read_bytes()


def test_independent_readers_take_it(pair: Pair) -> None:
    subprocess.run([sys.executable, "-m", "zipfile", "-t", str(pair.new)], check=True)
    if shutil.which("unzip"):
        subprocess.run(["unzip", "-tqq", str(pair.new)], check=True)


def test_pip_installs_it_and_the_installed_files_are_what_record_says(
    pair: Pair, tmp_path: Path
) -> None:
    target = tmp_path / "site"
    # Any machine's pip may take it here; the tag inside is another test's.
    renamed = pair.new.rename(tmp_path / f"vllm-{OURS}-py3-none-any.whl")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run(
        [*command, "--quiet", "--target", str(target), str(renamed)],
        check=True,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
    )
    assert (target / "vllm" / "model.py").read_bytes() == FILES["vllm/model.py"]
    rows = csv.reader(io.StringIO((target / NEW_INFO / "RECORD").read_text(encoding="utf-8")))
    checked = 0
    for name, digest, _ in rows:
        if digest and name.startswith("vllm/"):
            found = hashlib.sha256((target / name).read_bytes()).digest()
            assert base64.urlsafe_b64encode(found).decode().rstrip("=") == digest[7:]
            checked += 1
    assert checked == 7


def test_a_file_that_differs_from_the_source_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"vllm/model\.py in the published wheel differs"
    ) as caught:
        make(tmp_path, published=small.make_wheel({"vllm/model.py": b"other\n"}))
    assert caught.value.next


@pytest.mark.parametrize(
    "line", [b"Requires-Dist: torch>=2.11.0", b"Requires-Dist: torchvision==2.11.0", b"X: y"]
)
def test_metadata_that_does_not_fix_torch_is_refused(tmp_path: Path, line: bytes) -> None:
    metadata = small.METADATA.replace(b"Requires-Dist: torch==2.11.0", line)
    with pytest.raises(AuditError, match="doesn't fix torch"):
        make(tmp_path, published=small.make_wheel(metadata=metadata))


def test_an_unknown_version_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"_version\.py"):
        make(tmp_path, published=small.make_wheel({"vllm/_version.py": b"version = (9, 1)\n"}))


def test_what_isnt_a_wheel_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("vllm/model.py", b"x")
    with pytest.raises(AuditError, match="is not a wheel"):
        make(tmp_path, published=out.getvalue())


def expected() -> dict[str, str]:
    return {name: small.sha256(content) for name, content in FILES.items()}


def rewrite(path: Path, change: dict[str, bytes | None]) -> None:
    """The same archive with members changed, added or (None) left out; RECORD stays."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    merged = {**members, **change}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in merged.items():
            if content is not None:
                new.writestr(name, content)


def test_the_audit_takes_the_wheel_as_written(pair: Pair) -> None:
    check_wheel(pair.new, version=OURS, expected=expected())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"vllm/__init__.py": b"changed\n"}, "vllm/__init__.py is not what RECORD says"),
        ({"vllm/extra.py": b"extra\n"}, "differ in vllm/extra.py"),
        ({"vllm/_C.abi3.so": None}, "differ in vllm/_C.abi3.so"),
    ],
)
def test_the_audit_finds_a_member_changed_added_or_missing(
    pair: Pair, change: dict[str, bytes | None], named: str
) -> None:
    rewrite(pair.new, change)
    with pytest.raises(AuditError) as caught:
        check_wheel(pair.new, version=OURS, expected=expected())
    assert named in caught.value.what
    assert caught.value.next


def test_the_audit_holds_members_against_the_patched_tree(pair: Pair) -> None:
    other = {**expected(), "vllm/model.py": small.sha256(b"newer\n")}
    with pytest.raises(AuditError, match=r"vllm/model\.py is not the patched tree's file"):
        check_wheel(pair.new, version=OURS, expected=other)
    with pytest.raises(AuditError, match=r"vllm/lost\.py is not in it"):
        check_wheel(pair.new, version=OURS, expected={**expected(), "vllm/lost.py": "0" * 64})


def test_the_audit_finds_a_wrong_version(pair: Pair) -> None:
    with pytest.raises(AuditError, match="METADATA doesn't say Version"):
        check_wheel(pair.new, version="9.1.0+sm12x.5", expected=expected())


def test_a_large_number_of_edits_keeps_the_directory_right(tmp_path: Path) -> None:
    many = {f"vllm/sm12x/part{number}.py": b"%d\n" % number for number in range(2000)}
    made = make(tmp_path / "many", replace(EDIT, files={**FILES, **many}))
    hashes = {name: small.sha256(content) for name, content in {**FILES, **many}.items()}
    check_wheel(made.new, version=OURS, expected=hashes)
