# SPDX-License-Identifier: Apache-2.0
"""A wheel that was forged in any way is found, with the member's name; an honest one isn't."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipe.bases.releases import load_bases
from recipe.build import verify
from recipe.build.verify import Verdict
from recipe.ground.errors import AuditError, UsageError
from recipe.ground.log import Log
from recipe.ground.project import Project
from recipe.wheel.layout import By
from recipe.wheel.verify.finding import FILE_NAME
from tests.recipe.repo import numbered
from tests.recipe.server import serve
from tests.recipe.wheel.forging import taken_apart
from tests.recipe.wheel.verify.forgeries import BINARY, FORGERIES, KEPT, LAID, Forgery
from tests.recipe.world import World, make_world

PATCHED = numbered(40).replace(b"line 20\n", b"ours\n")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A project and the wheel that it made."""

    world: World
    wheel: Path

    def verdict(self, wheel: Path) -> Verdict:
        project = Project(root=self.world.root, cache=self.world.cache)
        bases = load_bases(project.bases_file)
        return verify.verify(project, bases, wheel, key=None, offline=True, log=Log())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[Made]:
    with serve() as index:
        world = make_world(tmp_path_factory.mktemp("forged"), index, code)
        python = world.upstream.patch({"vllm/model.py": PATCHED}, "Mend it", Topic="mended")
        world.add_patch("mended.patch", python)
        kernel = {"csrc/kernel.cu": b"ours\n"}
        native = world.upstream.patch(kernel, "Faster", Topic="faster", Components="_C")
        world.add_patch("faster.patch", native)
        world.add_overlay("vllm/sm12x/ours.py", b"ours = 1\n")
        done = world.build()
        assert done.status == 0, done.err
        yield Made(world=world, wheel=world.wheel())


def forged(made: Made, folder: Path, forgery: Forgery) -> Path:
    forger = taken_apart(made.wheel)
    forgery.do(forger)
    path = folder / made.wheel.name
    path.write_bytes(forger.write())
    assert path.read_bytes() != made.wheel.read_bytes()
    return path


def test_the_wheel_as_it_was_made_is_proven(made: Made) -> None:
    found = made.verdict(made.wheel)

    assert found.findings == ()
    assert found.members[By.UPSTREAM] >= 3
    assert sum(found.members.values()) == len(taken_apart(made.wheel).parts)


def test_taking_a_wheel_apart_forges_nothing(made: Made) -> None:
    assert taken_apart(made.wheel).write() == made.wheel.read_bytes()


@pytest.mark.parametrize("forgery", FORGERIES, ids=str)
def test_a_forgery_is_found_and_named(made: Made, tmp_path: Path, forgery: Forgery) -> None:
    found = made.verdict(forged(made, tmp_path, forgery))

    named = [one.why for one in found.findings if one.member == forgery.member]
    assert named, [str(one) for one in found.findings]
    assert any(re.search(forgery.why, why) or forgery.why in why for why in named), named
    assert all(str(one).isprintable() for one in found.findings)


def test_what_was_not_forged_is_not_named(made: Made, tmp_path: Path) -> None:
    """One forged member makes no finding of the others, wherever it lies in the archive."""
    for name in (KEPT, LAID, BINARY):
        (one,) = [f for f in FORGERIES if f.member == name and f.what.startswith("a bit")][:1]
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        findings = made.verdict(forged(made, folder, one)).findings
        assert {f.member for f in findings} <= {name, *([] if "mended" not in one.what else MENDED)}


MENDED = [f"vllm-9.1.0+sm12x.4.dist-info/{name}" for name in ("RECORD", "sm12x/record.json")]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vllm-9.1.0+sm12x.5-cp38-abi3-{tag}.whl", "isn't what the wheel must be called"),
        ("vllm-9.1.0+sm12x.4-1-cp38-abi3-{tag}.whl", "isn't what the wheel must be called"),
        ("vllm-9.1.0+sm12x.4-py3-none-{tag}.whl", "isn't what the wheel must be called"),
        ("vllm-9.1.0+sm12x.4-cp38-abi3-any.whl", "isn't what the wheel must be called"),
        ("evil.zip", "isn't what the wheel must be called"),
        ("vllm-9.1.0+sm12x.4-cp38-abi3-manylinux_2_1_x86_64.whl", "its shared objects need"),
    ],
)
def test_another_name_of_the_file_is_found(made: Made, tmp_path: Path, name: str, why: str) -> None:
    tag = made.wheel.name.removesuffix(".whl").rsplit("-", 1)[1]
    path = tmp_path / name.format(tag=tag)
    path.write_bytes(made.wheel.read_bytes())

    (finding,) = made.verdict(path).findings

    assert finding.member == FILE_NAME
    assert why in finding.why


def test_every_byte_counts(made: Made, tmp_path: Path) -> None:
    """A bit flipped anywhere is found: in data, in headers, in the directory, in the end."""
    content = made.wheel.read_bytes()
    path = tmp_path / made.wheel.name
    for at in range(3, len(content), len(content) // 60):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            assert made.verdict(path).findings, at
        except AuditError as no:
            assert no.next, at


def test_a_wheel_that_is_cut_off_or_none_at_all_is_refused(made: Made, tmp_path: Path) -> None:
    content = made.wheel.read_bytes()
    path = tmp_path / made.wheel.name
    for rest in (b"", b"PK", content[:-30], content[: len(content) // 2], b"\0" * 100):
        path.write_bytes(rest)
        with pytest.raises(AuditError, match="is not a wheel"):
            made.verdict(path)
    with pytest.raises(UsageError, match="is not a file"):
        made.verdict(tmp_path / "nothing.whl")


def test_a_wheel_of_another_revision_is_no_wheel_of_this_repository(
    made: Made, tmp_path: Path
) -> None:
    bases = made.world.root / "bases.toml"
    text = bases.read_text(encoding="utf-8")
    bases.write_text(text.replace("revision = 4", "revision = 5"), encoding="utf-8")
    try:
        with pytest.raises(AuditError, match="which this repository doesn't make"):
            made.verdict(made.wheel)
    finally:
        bases.write_text(text, encoding="utf-8")


def test_another_patch_in_the_repository_is_another_wheel(made: Made) -> None:
    """Nothing of what the wheel says of itself counts: the repository says what it must be."""
    ours = made.world.root / "overlay" / "vllm" / "vllm" / "sm12x" / "ours.py"
    ours.write_bytes(b"ours = 2\n")
    try:
        findings = made.verdict(made.wheel).findings
    finally:
        ours.write_bytes(b"ours = 1\n")
    assert LAID in {one.member for one in findings}
