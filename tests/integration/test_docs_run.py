# SPDX-License-Identifier: Apache-2.0
"""What the docs tell a person to type is typed, on the real archives.

The walks of CONTRIBUTING.md and docs/howto/patches.md go through a shell line by line; other
commands of build.py are run where they need no compiler, no git host and no release of tomorrow.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.first_patch import Walked, first_block, walk
from recipe.bases.download import fetch
from recipe.bases.releases import Bases
from tests.recipe.docs.pages import Command, page, pages
from tests.recipe.world import CHECKOUT, Checkout

EDIT = "sed -i 's/there is no vllm package then/no package is there then/' vllm/envs.py"
MESSAGE = """\
Say where this tree comes from

Topic: my-topic
Bases: >=0.33
Not-Needed: <0.33
Origin: vendor
Forwarded: no
Tests: tests/patched/test_my_topic.py
"""
# Ends that are an answer: a machine that lacks something, a wheel that doesn't serve.
ANSWERS = {"doctor": (0, 8), "audit": (0, 6)}
RUN = ("plan", "export", "lint", "matrix", "bases", "doctor", "audit", "bisect")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of this checkout's files as they are now, to be cloned and changed."""
    root = tmp_path_factory.mktemp("origin") / "vllm-sm12x"
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=CHECKOUT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (CHECKOUT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, root / name)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "All of it"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    return root


@pytest.fixture
def variables(tmp_path: Path, real: Checkout) -> dict[str, str]:
    """A home of its own, the cache in use, and a Python that needs no new environment."""
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    (home / ".gitconfig").write_text("[user]\nname = x\nemail = x@example.org\n", encoding="utf-8")
    for name in ("python", "python3"):
        path = programs / name
        path.write_text(
            f'#!/bin/sh\n[ "$1" = build.py ] || exec {sys.executable} "$@"\nshift\n'
            f'PYTHONPATH=$PWD PYTHONSAFEPATH=1 exec {sys.executable} -m recipe "$@"\n',
            encoding="utf-8",
        )
        path.chmod(0o755)
    system = "/usr/local/bin:/usr/bin:/bin"
    return {"HOME": str(home), "SM12X_CACHE": str(real.cache), "PATH": f"{programs}:{system}"}


def walked_through(lines: list[str], folder: Path, variables: dict[str, str]) -> Walked:
    walked = walk(lines, folder, variables)
    assert [one.line for one in walked.typed] == lines, walked.output
    assert not any(one.status for one in walked.typed), walked.output
    return walked


def changed(checkout: Path) -> list[list[str]]:
    """Lines added, lines removed and path of each file that is not as it was."""
    stat = ["git", "diff", "--numstat"]
    out = subprocess.run(stat, cwd=checkout, capture_output=True, check=True, text=True).stdout
    return [line.split("\t") for line in out.splitlines()]


@pytest.mark.parametrize("config", ["", "[core]\nautocrlf = true\n"], ids=["plain", "autocrlf"])
def test_a_clone_comes_to_a_first_changed_patch(
    clone: Path, variables: dict[str, str], tmp_path: Path, config: str
) -> None:
    with (Path(variables["HOME"]) / ".gitconfig").open("a", encoding="utf-8") as file:
        file.write(config)
    lines = first_block(CHECKOUT / "CONTRIBUTING.md")
    typed = [line.replace("clone URL", f"clone {clone}") for line in lines]
    walked = walked_through(typed, tmp_path, variables)
    assert "# 121: DGX Spark" in walked.output  # what git diff showed
    assert "the series is in order" in walked.output
    assert changed(tmp_path / "vllm-sm12x") == [["2", "2", "patches/vllm/marlin-fp8-sources.patch"]]


def blocks(heading: str) -> list[str]:
    """The lines of the first block of commands below a heading of the page about patches."""
    one = page("docs/howto/patches.md")
    after = one.text.splitlines().index(f"## {heading}")
    content = next(content for line, content in one.blocks if line > after)
    return content.splitlines()


def test_a_patch_is_changed_as_its_page_says(
    clone: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(clone, checkout)
    lines = [EDIT if line == "# edit" else line for line in blocks("Change a patch")]
    assert EDIT in lines
    walked_through(lines, checkout, variables)
    assert changed(checkout) == [["2", "2", "patches/vllm/env-registration.patch"]]


def test_a_patch_is_added_as_its_page_says(
    clone: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(clone, checkout)
    (checkout / "tests" / "patched" / "test_my_topic.py").write_text("", encoding="utf-8")
    (tmp_path / "message").write_text(MESSAGE, encoding="utf-8")
    edit = "echo 'patched by vllm-sm12x' >>README.md"
    lines = [edit if line == "# edit" else line for line in blocks("Add a patch")]
    assert edit in lines
    editor = {"GIT_EDITOR": f"cp {tmp_path / 'message'}"}
    walked_through(lines, checkout, {**variables, **editor})
    assert changed(checkout) == [["1", "0", "series.txt"]]
    patch = (checkout / "patches" / "vllm" / "my-topic.patch").read_text(encoding="utf-8")
    assert "+patched by vllm-sm12x\n" in patch


def runnable() -> list[Command]:
    """One command of each kind: a verb with its options, whatever the release."""
    found: dict[tuple[str, ...], Command] = {}
    for command in (command for one in pages() for command in one.commands()):
        match command.words:
            case ("python" | "python3", "build.py", verb, *options) if verb in RUN and not {
                "...",
                "add",
                "check",
            } & set(options):
                kind = (verb, *(word for word in options if word.startswith("--")))
                found.setdefault(kind, command)
            case _:
                pass
    return list(found.values())


@pytest.mark.parametrize("command", runnable(), ids=str)
def test_a_command_does_what_it_is_shown_for(
    command: Command, real: Checkout, bases: Bases, tmp_path: Path
) -> None:
    base = bases.find("v0.33.0")
    words = list(command.words[2:])
    if "WHEEL" in words:
        release = {"project": "vllm", "version": str(base.version)}
        wheel = fetch(base.wheels["x86_64"], **release, cache=real.cache, offline=False)
        words[words.index("WHEEL")] = str(wheel)
    stands_for = {
        "DIR": str(tmp_path / "new"),
        "matrix.html": str(tmp_path / "matrix.html"),
        "FILE": str(tmp_path / "matrix.html"),
        # Good on the unpatched release, bad from the patch on that brings this word.
        "CMD": "! grep -q vllm.sm12x.envs vllm/envs.py",
    }
    done = real.run(*(stands_for.get(word, word) for word in words))
    assert done.status in ANSWERS.get(words[0], (0,)), done.err
    assert done.out.strip() or done.err.strip()


def test_there_are_commands_to_run() -> None:
    verbs = {command.words[2] for command in runnable()}
    assert verbs == set(RUN)
