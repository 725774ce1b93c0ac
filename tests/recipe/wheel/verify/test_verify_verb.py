# SPDX-License-Identifier: Apache-2.0
"""`verify` as it is typed: exit codes, the document, the statement beside the wheel and its key."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe.objects.gate.names import Entry
from recipe.objects.ids import tree_id
from recipe.wheel.sign import SUFFIX, Kind
from tests.recipe import small
from tests.recipe.repo import numbered
from tests.recipe.server import serve
from tests.recipe.wheel.forging import taken_apart
from tests.recipe.wheel.verify.forgeries import KEPT
from tests.recipe.world import Done, World, make_world

PATCHED = numbered(40).replace(b"line 20\n", b"ours\n")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[World]:
    with serve() as index:
        world = make_world(tmp_path_factory.mktemp("verified"), index, code)
        change = world.upstream.patch(
            {"vllm/model.py": PATCHED}, Topic="mended", Forwarded="vllm-project/vllm#40988"
        )
        world.add_patch("mended.patch", change)
        world.add_overlay("vllm/sm12x/ours.py", b"ours = 1\n")
        world.add_overlay("vllm/sm12x/names.py", b"def one():\n    pass\n")
        script = world.add_overlay("vllm/sm12x/run.sh", b"#!/bin/sh\n")
        script.chmod(0o755)
        yield world


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A key to sign with, its public half, and somebody else's."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    return {name: folder / name for name in ("ours", "ours.pub", "other", "other.pub")}


@pytest.fixture(scope="module")
def world(shared: World, keys: dict[str, Path]) -> World:
    """With a signed wheel."""
    done = shared.build("--sign-key", str(keys["ours"]))
    assert done.status == 0, done.err
    return shared


def verify(world: World, wheel: Path, *args: str) -> Done:
    return world.run("verify", "--offline", str(wheel), *args)


def copied(world: World, folder: Path) -> Path:
    """The wheel with all that lies beside it."""
    for path in world.out.iterdir():
        shutil.copy(path, folder)
    return folder / world.wheel().name


def test_an_honest_wheel_is_proven_with_everybodys_members_counted(world: World) -> None:
    done = verify(world, world.wheel(), "--json")

    assert done.status == 0, done.err
    document = done.document
    assert document["proven"] and document["findings"] == []
    assert document["sha256"] == small.sha256(world.wheel().read_bytes())
    assert document["members"]["upstream"] + document["members"]["written"] == len(
        taken_apart(world.wheel()).parts
    )
    assert "every byte is accounted for" in done.err


def test_a_forged_wheel_ends_with_six_and_names_the_member(world: World, tmp_path: Path) -> None:
    forger = taken_apart(world.wheel())
    forger.change(KEPT, b"evil = 1\n")
    wheel = tmp_path / world.wheel().name
    wheel.write_bytes(forger.write())

    done = verify(world, wheel, "--json")

    assert done.status == 6
    assert not done.document["proven"]
    assert KEPT in {one["member"] for one in done.document["findings"]}
    assert f"{KEPT} isn't upstream's" in done.err
    assert done.next.startswith("python build.py --base v9.1.0")


def test_the_record_names_every_input_by_hash(world: World) -> None:
    members = {part.name.decode(): part.content() for part in taken_apart(world.wheel()).parts}
    (name,) = [name for name in members if name.endswith("/sm12x/record.json")]
    found = json.loads(members[name])
    tree = tree_id(
        Entry(path=path, mode="100755" if content.startswith(b"#!") else "100644", content=content)
        for path, content in small.TREE.items()
    )

    assert found["inputs"]["source"]["tree"] == tree
    assert found["inputs"]["source"]["archive"]["sha256"] == small.sha256(world.sdist)
    (inner,) = found["inputs"]["inner"]
    assert (inner["name"], inner["pin"]) == ("deepgemm", "ab" * 20)
    modes = {row["path"]: (row["mode"], row["sha256"]) for row in found["overlay"]}
    assert modes["vllm/sm12x/run.sh"] == ("100755", small.sha256(b"#!/bin/sh\n"))
    assert modes["vllm/sm12x/ours.py"] == ("100644", small.sha256(b"ours = 1\n"))
    (patch,) = found["patches"]
    assert patch["pull_request"] == "https://github.com/vllm-project/vllm/pull/40988"
    (topic,) = found["topics"]
    assert (topic["topic"], topic["state"], topic["patch"]) == (
        "mended",
        "applies",
        "vllm/mended.patch",
    )
    (binary,) = found["binaries"]
    assert binary["path"] == "vllm/_C.abi3.so" and binary["by"] == "upstream"
    assert binary["sha256"] == small.sha256(members["vllm/_C.abi3.so"])
    ours = {row["path"]: row["sha256"] for row in found["metadata"]}
    info = name.partition("/")[0]
    assert set(ours) == {one for one in members if one.startswith(f"{info}/")} - {
        name,
        f"{info}/RECORD",
    } | {"vllm/_version.py"}
    assert all(small.sha256(members[path]) == digest for path, digest in ours.items())
    assert "auditwheel" in found["toolchain"]


def statement(world: World) -> dict[str, Any]:
    path = world.wheel().with_name(world.wheel().name + ".intoto.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_statement_is_provenance_of_this_wheel_and_of_its_report(world: World) -> None:
    found = statement(world)

    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://slsa.dev/provenance/v1"
    (subject,) = found["subject"]
    assert subject["name"] == world.wheel().name
    assert subject["digest"]["sha256"] == small.sha256(world.wheel().read_bytes())
    definition = found["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["base"] == "v9.1.0"
    assert definition["externalParameters"]["native"] == "none"
    digests = {one["name"]: one["digest"] for one in definition["resolvedDependencies"]}
    assert digests[small.SDIST]["sha256"] == small.sha256(world.sdist)
    assert digests["overlay/vllm/vllm/sm12x/ours.py"]["sha256"] == small.sha256(b"ours = 1\n")
    (report,) = found["predicate"]["runDetails"]["byproducts"]
    content = (world.out / report["name"]).read_bytes()
    assert report["digest"]["sha256"] == small.sha256(content)
    assert report["annotations"]["tests"] == json.loads(content)["tests"]


def test_the_owner_of_a_key_is_told_from_others(world: World, keys: dict[str, Path]) -> None:
    done = verify(world, world.wheel(), "--key", str(keys["ours.pub"]), "--json")
    assert done.status == 0, done.err
    assert done.document["statement"] == "signed with ours.pub"

    done = verify(world, world.wheel(), "--key", str(keys["other.pub"]))
    assert done.status == 6
    assert "was not signed with other.pub" in done.err


def test_a_statement_that_was_changed_or_is_of_another_wheel_is_found(
    world: World, keys: dict[str, Path], tmp_path: Path
) -> None:
    wheel = copied(world, tmp_path)
    beside = wheel.with_name(wheel.name + ".intoto.json")
    digest = small.sha256(wheel.read_bytes())
    beside.write_text(beside.read_text(encoding="utf-8").replace(digest, "0" * 64))

    assert "is of another wheel" in verify(world, wheel).err + verify(world, wheel).out
    assert verify(world, wheel).status == 6
    assert verify(world, wheel, "--key", str(keys["ours.pub"])).status == 6
    beside.unlink()
    assert verify(world, wheel).status == 0
    done = verify(world, wheel, "--key", str(keys["ours.pub"]))
    assert done.status == 6 and "is not beside the wheel" in done.err


@pytest.mark.parametrize("content", [b"", b"\0\xff", b"-----BEGIN OPENSSH PRIVATE KEY-----\nx\n"])
def test_a_key_that_is_none_is_said_before_anything_is_built(
    world: World, tmp_path: Path, content: bytes
) -> None:
    key = tmp_path / "key"
    key.write_bytes(content)
    key.chmod(0o600)

    done = world.run("build", "--no-test", "--out", str(tmp_path / "out"), "--sign-key", str(key))

    assert done.status == 2, done.err
    assert "Applying" not in done.err
    assert not (tmp_path / "out").exists()
    assert verify(world, world.wheel(), "--key", str(tmp_path / "nothing")).status == 2


@pytest.mark.skipif(shutil.which("minisign") is None, reason="needs minisign")
def test_a_key_of_minisign_signs_as_well(world: World, tmp_path: Path) -> None:
    public, secret = tmp_path / "key.pub", tmp_path / "key"
    command = ["minisign", "-G", "-W", "-p", str(public), "-s", str(secret)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    out = tmp_path / "out"
    done = world.run("build", "--no-test", "--out", str(out), "--sign-key", str(secret))
    assert done.status == 0, done.err
    (wheel,) = out.glob("*.whl")
    assert (out / f"{wheel.name}.intoto.json{SUFFIX[Kind.MINISIGN]}").exists()

    assert verify(world, wheel, "--key", str(public)).status == 0
    beside = wheel.with_name(wheel.name + ".intoto.json")
    beside.write_bytes(beside.read_bytes() + b"\n")
    assert verify(world, wheel, "--key", str(public)).status == 6


def test_a_rebuild_gives_the_same_bytes_or_says_how_they_differ(
    world: World, tmp_path: Path
) -> None:
    done = verify(world, world.wheel(), "--rebuild", "--json")
    assert done.status == 0, done.err
    assert done.document["rebuilt"] == {"same": True, "differences": []}
    forger = taken_apart(world.wheel())
    forger.change(KEPT, forger.part(KEPT).content() + b"# a comment\n")
    forger.change("vllm/sm12x/ours.py", b"ours = 2\n")
    forger.change("vllm/sm12x/names.py", b"def evil():\n    pass\n")
    forger.add("vllm/more.py")
    wheel = tmp_path / world.wheel().name
    wheel.write_bytes(forger.write())

    done = verify(world, wheel, "--rebuild", "--json")

    assert done.status == 6
    how = {one["member"]: one["how"] for one in done.document["rebuilt"]["differences"]}
    info = "vllm-9.1.0+sm12x.4.dist-info"
    assert how == {
        KEPT: "bytes",
        "vllm/sm12x/ours.py": "code",
        "vllm/sm12x/names.py": "symbols",
        "vllm/more.py": "only-here",
        f"{info}/RECORD": "bytes",
    }


def test_nothing_is_left_in_the_cache(world: World) -> None:
    assert verify(world, world.wheel()).status == 0
    assert [*(world.cache / "tmp").iterdir()] == []
