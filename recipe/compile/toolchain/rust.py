# SPDX-License-Identifier: Apache-2.0
"""The Rust frontend in a build of everything: its toolchain, and its crates without a network.

From v0.22 on a wheel holds ``vllm/vllm-rs``. setup.py leaves it out without a word when cargo
fails, so everything it needs is looked at first, and then it is required.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.version import Version

from recipe.bases.pins import read_as
from recipe.ground import run
from recipe.ground.errors import MachineError, SourceError
from recipe.ground.scratch import write_whole

LOCK = "rust/Cargo.lock"
TOOLCHAIN = "rust-toolchain.toml"
GIT = re.compile(r"git\+(?P<url>[^?#]+)(?:\?(?P<kind>tag|rev|branch)=(?P<value>[^#]+))?")


def prepare(tree: Path, work: Path, crates: Path | None, *, offline: bool) -> dict[str, str]:
    """What setup.py must be told of cargo; nothing for a tree without Rust.

    Crates come from `crates` (``cargo vendor``), else from cargo's own cache, which is filled first
    unless `offline`. Cargo.lock has their hashes.
    """
    if not (tree / LOCK).exists():
        return {}
    check_toolchain(tree)
    told = {"VLLM_REQUIRE_RUST_FRONTEND": "1", "CARGO_NET_OFFLINE": "true"}
    if crates is not None:
        home = work / "cargo"
        write_whole(home / "config.toml", vendored(tree, crates).encode())
        told["CARGO_HOME"] = str(home)
    fetch(tree, told if crates is not None or offline else {})
    return told


def check_toolchain(tree: Path) -> None:
    """cargo must be there, of the version that the tree asks for."""
    wanted = toolchain(tree)
    install = f"install Rust {wanted}: rustup toolchain install {wanted}"
    try:
        # rustup would fetch a toolchain by itself, and cargo then lies elsewhere.
        said = run.output(["cargo", "--version"], cwd=tree, env={"RUSTUP_AUTO_INSTALL": "0"})
    except FileNotFoundError:
        raise MachineError(
            "cargo is not on the PATH",
            means=f"This release's wheel holds a frontend in Rust, made with Rust {wanted}.",
            next=install,
        ) from None
    except run.CommandFailed as error:
        raise MachineError(
            f"cargo doesn't start for Rust {wanted}: {reason(error.stderr)}",
            means=f"{TOOLCHAIN} of the tree asks for that toolchain by name.",
            next=f"{install}, or name one that is there: RUSTUP_TOOLCHAIN=stable python build.py",
        ) from None
    match = re.search(r"cargo (\d[\d.]*)", said.decode())
    if match is None or Version(match[1]) < Version(wanted):
        raise MachineError(
            f"{said.decode().strip()} is older than Rust {wanted}",
            means=f"{TOOLCHAIN} of the tree asks for it.",
            next=install,
        )


def toolchain(tree: Path) -> str:
    """``1.95``, as the tree's toolchain file has it."""
    with read_as(TOOLCHAIN):
        read = tomllib.loads((tree / TOOLCHAIN).read_text(encoding="utf-8"))
        return str(read["toolchain"]["channel"])


def fetch(tree: Path, told: dict[str, str]) -> None:
    """Have cargo look for every crate of Cargo.lock, and get what isn't there if it may."""
    command = ["cargo", "fetch", "--locked", "--manifest-path", str(tree / "rust/Cargo.toml")]
    try:
        run.output(command, cwd=tree, env=told)
    except run.CommandFailed as error:
        raise SourceError(
            f"cargo doesn't have every crate of {LOCK}: {reason(error.stderr)}",
            means="The Rust frontend can't be built; nothing was compiled.",
            next=f"on a machine with a network: cargo vendor --locked --versioned-dirs "
            f"--manifest-path {tree}/rust/Cargo.toml DIR   # then here: --sources rust=DIR",
        ) from None


def vendored(tree: Path, crates: Path) -> str:
    """cargo's configuration that takes each source of Cargo.lock from one folder."""
    with read_as(LOCK):
        read = tomllib.loads((tree / LOCK).read_text(encoding="utf-8"))
        sources = sorted({str(package.get("source", "")) for package in read["package"]})
    lines = ["[source.vendored]", f"directory = {quoted(str(crates.absolute()))}"]
    lines += ["[source.crates-io]", 'replace-with = "vendored"']
    for source in sources:
        match = GIT.match(source)
        if match is None:
            continue
        name = source.partition("#")[0]
        lines += [f"[source.{quoted(name)}]", f"git = {quoted(match['url'])}"]
        if match["kind"]:
            lines.append(f"{match['kind']} = {quoted(match['value'])}")
        lines.append('replace-with = "vendored"')
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def reason(said: str) -> str:
    """What names the error; rustup and cargo put traces and advice after it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith("error:")), 0)
    return "; ".join(lines[first : first + 2]).removeprefix("error: ") or "it says nothing"
