# SPDX-License-Identifier: Apache-2.0
"""What a build of everything asks of cargo, before anything is compiled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from recipe.compile.toolchain import rust
from recipe.ground.errors import MachineError, SourceError

CHECKSUM = "11" * 32
CARGO_LOCK = f"""\
version = 4

[[package]]
name = "front"
version = "0.1.0"
dependencies = ["far", "near"]

[[package]]
name = "far"
version = "1.0.0"
source = "git+https://git.example/far?tag=v1.0.0#{"ab" * 20}"

[[package]]
name = "near"
version = "2.0.0"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "{CHECKSUM}"
"""
MANIFEST = """\
[package]
name = "front"
version = "0.1.0"
edition = "2021"

[dependencies]
far = { git = "https://git.example/far", tag = "v1.0.0" }
near = "2"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "rust" / "src").mkdir(parents=True)
    (folder / "rust" / "Cargo.lock").write_text(CARGO_LOCK, encoding="utf-8")
    (folder / "rust" / "Cargo.toml").write_text(MANIFEST, encoding="utf-8")
    (folder / "rust" / "src" / "lib.rs").write_text("", encoding="utf-8")
    write_toolchain(folder, "1.60")
    return folder


def write_toolchain(tree: Path, channel: str) -> None:
    text = f'[toolchain]\nchannel = "{channel}"\n'
    (tree / "rust-toolchain.toml").write_text(text, encoding="utf-8")


def a_crate(folder: Path, name: str, version: str, checksum: str | None) -> None:
    """A crate as ``cargo vendor`` leaves it."""
    (folder / name / "src").mkdir(parents=True)
    manifest = f'[package]\nname = "{name}"\nversion = "{version}"\nedition = "2021"\n'
    (folder / name / "Cargo.toml").write_text(manifest, encoding="utf-8")
    (folder / name / "src" / "lib.rs").write_text("", encoding="utf-8")
    text = json.dumps({"files": {}, "package": checksum})
    (folder / name / ".cargo-checksum.json").write_text(text, encoding="utf-8")


def fake_cargo(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A cargo of this test alone on the PATH."""
    folder.mkdir()
    path = folder / "cargo"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture
def cargo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's cargo, by the toolchain that its owner chose."""
    if shutil.which("cargo") is None:
        pytest.skip("there is no cargo on this machine")
    monkeypatch.setenv("RUSTUP_TOOLCHAIN", os.environ.get("RUSTUP_TOOLCHAIN", "stable"))
    # rustup's cargo is on the PATH of every user; what it starts may lie in another one's home.
    if subprocess.run(["cargo", "--version"], capture_output=True).returncode != 0:
        pytest.skip("there is a cargo on this machine, but rustup has no Rust for this user")


def test_a_release_without_rust_asks_for_nothing(tmp_path: Path) -> None:
    assert rust.prepare(tmp_path, tmp_path / "work", None, offline=True) == {}


def test_a_machine_without_cargo_is_told_which_rust_to_install(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MachineError) as error:
        rust.prepare(tree, tmp_path / "work", None, offline=False)

    assert error.value.exit_code == 8
    assert "rustup toolchain install 1.60" in error.value.next


def test_a_cargo_that_is_too_old_is_refused(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cargo(tmp_path / "bin", monkeypatch, "echo 'cargo 1.59.0 (49d8809dc 2022-02-10)'")

    with pytest.raises(MachineError, match="older than Rust"):
        rust.prepare(tree, tmp_path / "work", None, offline=False)


def test_a_toolchain_that_rustup_has_not_got_is_not_fetched_behind_our_back(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = "error: toolchain '1.60' is not installed"
    script = f'test "$RUSTUP_AUTO_INSTALL" = 0 || exit 0\necho "{says}" >&2\nexit 1'
    fake_cargo(tmp_path / "bin", monkeypatch, script)

    with pytest.raises(MachineError) as error:
        rust.prepare(tree, tmp_path / "work", None, offline=False)

    assert "toolchain '1.60' is not installed" in error.value.what
    assert "RUSTUP_TOOLCHAIN=stable" in error.value.next


@pytest.mark.usefixtures("cargo")
def test_vendored_crates_are_taken_without_a_network(tree: Path, tmp_path: Path) -> None:
    crates = tmp_path / "crates"
    a_crate(crates, "far", "1.0.0", None)
    a_crate(crates, "near", "2.0.0", CHECKSUM)

    told = rust.prepare(tree, tmp_path / "work", crates, offline=True)

    assert told["CARGO_NET_OFFLINE"] == "true"
    assert told["VLLM_REQUIRE_RUST_FRONTEND"] == "1"
    assert Path(told["CARGO_HOME"]).is_relative_to(tmp_path / "work")


@pytest.mark.usefixtures("cargo")
def test_a_crate_that_is_missing_stops_it_before_the_compile(tree: Path, tmp_path: Path) -> None:
    crates = tmp_path / "crates"
    a_crate(crates, "far", "1.0.0", None)

    with pytest.raises(SourceError) as error:
        rust.prepare(tree, tmp_path / "work", crates, offline=True)

    assert error.value.exit_code == 3
    assert "near" in error.value.what
    assert "cargo vendor" in error.value.next


@pytest.mark.usefixtures("cargo")
def test_a_crate_that_is_not_the_locked_one_is_refused(tree: Path, tmp_path: Path) -> None:
    crates = tmp_path / "crates"
    a_crate(crates, "far", "1.0.0", None)
    a_crate(crates, "near", "2.0.0", "22" * 32)

    with pytest.raises(SourceError, match="checksum"):
        rust.prepare(tree, tmp_path / "work", crates, offline=True)


def test_every_source_of_the_lock_is_replaced_by_the_folder(tree: Path, tmp_path: Path) -> None:
    read = tomllib.loads(rust.vendored(tree, tmp_path / 'a "folder"'))["source"]

    far = read["git+https://git.example/far?tag=v1.0.0"]
    assert far == {"git": "https://git.example/far", "tag": "v1.0.0", "replace-with": "vendored"}
    assert read["crates-io"] == {"replace-with": "vendored"}
    assert read["vendored"]["directory"] == str(tmp_path / 'a "folder"')
