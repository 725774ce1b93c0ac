# SPDX-License-Identifier: Apache-2.0
"""Headers a source may take in: never too few of them, checked against the compiler itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from recipe.compile.includes import Closure


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def found(root: Path, source: str, *folders: str) -> set[str]:
    closure = Closure([root]).of(root / source, tuple(root / folder for folder in folders))
    return {path.relative_to(root).as_posix() for path in closure}


FILES = {
    "a/main.cpp": '#include "near.h"\n  #  include <far/wide.hpp>\n#include <vector>\nint x;\n',
    "a/near.h": '#pragma once\n#include "../b/other.h"\n',
    "b/other.h": '#ifdef NEVER\n#include "never.h"\n#endif\n',
    "b/never.h": "int never;\n",
    "inc/far/wide.hpp": '#include "deep.h"\n#include "deep.h"\n',
    "inc/far/deep.h": '#include "wide.hpp"\n',
    "inc/unused.h": "int unused;\n",
}


def test_quoted_and_angled_includes_are_followed_whatever_their_condition(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    files = {"a/main.cpp", "a/near.h", "b/other.h", "b/never.h"}
    assert found(tmp_path, "a/main.cpp", "inc") == files | {"inc/far/wide.hpp", "inc/far/deep.h"}


def test_nothing_the_compiler_takes_in_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "inc/far/deep.h": ""})
    command = ["c++", "-M", "-I", str(tmp_path / "inc"), str(tmp_path / "a/main.cpp")]
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    taken = {Path(word).resolve() for word in said.replace("\\\n", " ").split()[1:]}
    inside = {p.relative_to(tmp_path).as_posix() for p in taken if p.is_relative_to(tmp_path)}
    assert inside
    assert inside <= found(tmp_path, "a/main.cpp", "inc")


def test_an_include_made_by_the_preprocessor_counts_for_every_header_beside(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"x.cu": "#define H <y.cuh>\n#include H\n", "y.cuh": "", "z.h": "", "z.txt": ""},
    )
    assert found(tmp_path, "x.cu") == {"x.cu", "y.cuh", "z.h"}


@pytest.mark.parametrize("edit", ["a/near.h", "inc/far/deep.h"])
def test_an_edit_changes_the_hash_of_its_file_alone(tmp_path: Path, edit: str) -> None:
    write(tmp_path, FILES)
    folders = (tmp_path / "inc",)
    before = Closure([tmp_path]).of(tmp_path / "a/main.cpp", folders)
    (tmp_path / edit).write_text("int edited;\n" + FILES[edit], encoding="utf-8")
    after = Closure([tmp_path]).of(tmp_path / "a/main.cpp", folders)
    assert {p for p in before if before[p] != after[p]} == {tmp_path / edit}
