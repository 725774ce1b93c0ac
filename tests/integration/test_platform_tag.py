# SPDX-License-Identifier: Apache-2.0
"""The platform tag of compiled members, by auditwheel, and one for which it has none."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from recipe.build.pipeline import choose_tag, glibc
from recipe.ground.errors import AuditError, MachineError
from recipe.wheel.check import binaries_tag

MACHINE = platform.machine()
NEW = "GLIBC_2.99"


def extension(folder: Path, *, new: bool) -> Path:
    """One that takes a function from libc; `new`: under a version that no glibc has yet."""
    library, path = folder / "libnew.so", folder / "_C.abi3.so"
    (folder / "new.map").write_text(f"{NEW} {{ global: wanted; }};\n", encoding="utf-8")
    (folder / "new.c").write_text("int wanted(void) { return 1; }\n", encoding="utf-8")
    (folder / "c.c").write_text(
        "int wanted(void);\nint abort(void);\nint PyInit__C(void) { return CALLED + abort(); }\n",
        encoding="utf-8",
    )
    script = f"-Wl,--version-script={folder / 'new.map'}"
    cc = ["cc", "-shared", "-fPIC", "-fno-builtin"]
    subprocess.run([*cc, str(folder / "new.c"), script, "-o", str(library)], check=True)
    called = ["-DCALLED=wanted()", str(library)] if new else ["-DCALLED=0"]
    subprocess.run([*cc, str(folder / "c.c"), *called, "-o", str(path)], check=True)
    return path


def test_members_that_any_glibc_loads_have_a_manylinux_tag(tmp_path: Path) -> None:
    members = {"vllm/_C.abi3.so": extension(tmp_path, new=False)}
    tag = binaries_tag(members, MACHINE, tmp_path / "cache")
    assert glibc(tag) <= (2, 17)
    assert choose_tag(None, tag) == tag
    assert choose_tag(f"manylinux_2_39_{MACHINE}", tag) == f"manylinux_2_39_{MACHINE}"
    with pytest.raises(AuditError, match="the shared objects need"):
        choose_tag(f"manylinux_2_1_{MACHINE}", tag)


@pytest.mark.parametrize("asked", [None, f"manylinux_2_39_{MACHINE}", f"linux_{MACHINE}"])
def test_members_for_which_there_is_no_tag_end_with_8(tmp_path: Path, asked: str | None) -> None:
    members = {"vllm/_C.abi3.so": extension(tmp_path, new=True)}
    tag = binaries_tag(members, MACHINE, tmp_path / "cache")
    assert tag == f"linux_{MACHINE}"
    with pytest.raises(MachineError, match=f"only linux_{MACHINE}") as error:
        choose_tag(asked, tag)
    assert error.value.exit_code == 8
    assert "--native none" in error.value.next
    with pytest.raises(MachineError):
        max(f"manylinux_2_28_{MACHINE}", tag, key=glibc)
