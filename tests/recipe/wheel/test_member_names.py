# SPDX-License-Identifier: Apache-2.0
"""A wheel's members go through the same gate as a source's files."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from recipe.ground.errors import AuditError
from recipe.wheel.read import opened
from recipe.wheel.write import names_in
from tests.recipe import small


def wheel(folder: Path, *members: tuple[str, int]) -> Path:
    """A published wheel with more members: name and Unix mode."""
    path = folder / "x-1-py3-none-any.whl"
    path.write_bytes(small.make_wheel())
    with zipfile.ZipFile(path, "a") as archive:
        for name, mode in members:
            info = zipfile.ZipInfo(name)
            info.filename = name  # as it is, whatever ZipInfo makes of it
            info.external_attr = mode << 16
            archive.writestr(info, b"" if name.endswith("/") else b"x")
    return path


REGULAR = stat.S_IFREG | 0o644


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../evil.py", REGULAR)], "'../evil.py' leaves the tree"),
        ([("/etc/evil", REGULAR)], "'/etc/evil' is absolute"),
        ([("vllm/../../evil", REGULAR)], "leaves the tree"),
        ([("vllm/a\nb.py", REGULAR)], r"'vllm/a\\nb.py' has a control character"),
        ([("vllm/.git/config", REGULAR)], "leaves the tree"),
        ([("vllm/model.py", REGULAR)], "'vllm/model.py' stands twice"),
        ([("vllm/Model.py", REGULAR)], "on a disk that folds letters"),
        ([("vllm/model.py/x", REGULAR)], "which is no folder"),
        ([("vllm/link", stat.S_IFLNK | 0o777)], "is neither a file nor a folder"),
        ([("vllm/pipe", stat.S_IFIFO | 0o644)], "is neither a file nor a folder"),
        ([("../folder/", stat.S_IFDIR | 0o755)], "leaves the tree"),
    ],
)
def test_a_member_that_is_more_than_a_file_of_its_own_is_refused(
    tmp_path: Path, members: list[tuple[str, int]], said: str
) -> None:
    with pytest.raises(AuditError, match=said) as caught:
        names_in(wheel(tmp_path, *members))
    assert caught.value.what.isprintable()


def test_a_name_that_goes_on_behind_a_nul_is_refused(tmp_path: Path) -> None:
    path = wheel(tmp_path, ("vllm/newXevil.py", REGULAR))
    path.write_bytes(path.read_bytes().replace(b"newXevil", b"new\0evil"))
    with pytest.raises(AuditError, match=r"new\\x00evil"), opened(path):
        pass


def test_folders_and_new_files_are_taken(tmp_path: Path) -> None:
    path = wheel(tmp_path, ("vllm/new/", stat.S_IFDIR | 0o755), ("vllm/new/a.py", 0))
    assert "vllm/new/a.py" in names_in(path)
