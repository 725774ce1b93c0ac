# SPDX-License-Identifier: Apache-2.0
"""The files in the root that others' tools read are valid, and the repository is as they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import editorconfig
import pytest
from ruamel.yaml import YAML

from recipe.cli.steps import steps
from tests.recipe.docs.pages import ROOT
from tests.recipe.world import Checkout

BIN = Path(sys.executable).parent
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
TRAILING = (b" ", b"\t")


def tracked() -> list[str]:
    """The files of the repository as they are now, links left out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    paths = [name for name in out.split("\0") if name]
    return [name for name in paths if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


def read_yaml(path: Path) -> dict[str, Any]:
    read = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    assert isinstance(read, dict)
    return read


def wrong(name: str, content: bytes) -> list[str]:
    """What of .editorconfig a file's content breaks; its library says what holds for the path."""
    rules = editorconfig.get_properties(str(ROOT / name))
    found = []
    if rules.get("charset") == "utf-8":
        try:
            content.decode("utf-8")
        except UnicodeDecodeError:
            found.append("charset")
    if rules.get("end_of_line") == "lf" and b"\r" in content:
        found.append("end_of_line")
    if rules.get("insert_final_newline") == "true" and content and not content.endswith(b"\n"):
        found.append("insert_final_newline")
    lines = content.split(b"\n")
    if rules.get("trim_trailing_whitespace") == "true":
        found += ["trim_trailing_whitespace"] * any(line.endswith(TRAILING) for line in lines)
    if rules.get("indent_style") == "space":
        found += ["indent_style"] * any(line.startswith(b"\t") for line in lines)
    return found


def test_every_file_is_as_editorconfig_says() -> None:
    found = {name: wrong(name, (ROOT / name).read_bytes()) for name in tracked()}
    assert {name: rules for name, rules in found.items() if rules} == {}


def test_editorconfig_leaves_patches_alone_and_sees_the_rest() -> None:
    assert wrong("patches/vllm/x.patch", b" context \r\n\t\xff") == []
    every = ["charset", "end_of_line", "insert_final_newline", "trim_trailing_whitespace"]
    assert wrong("recipe/x.py", b"\tx \n\xff\r ") == [*every, "indent_style"]


@pytest.mark.parametrize("setting", ["core.autocrlf=true", "core.eol=crlf"])
def test_a_clone_keeps_every_byte_whatever_git_is_told_about_line_ends(
    tmp_path: Path, setting: str
) -> None:
    """Of the files as they are now: a patch with CRLF in its context is among the cases."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    names = [".gitattributes", "series.txt", "bases.toml", *(n for n in tracked() if "/" in n)]
    contents = {name: (ROOT / name).read_bytes() for name in names}
    contents["patches/vllm/crlf.patch"] = b" a\r\n\n \n"
    for name, content in contents.items():
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        (origin / name).write_bytes(content)
    git = ["git", "-c", setting, "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=origin, check=True)
    subprocess.run([*git, "add", "-A"], cwd=origin, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "All of it"], cwd=origin, check=True)
    subprocess.run(["git", "clone", "-q", "-c", setting, str(origin), str(clone)], check=True)
    differ = [name for name, content in contents.items() if (clone / name).read_bytes() != content]
    assert differ == []
    (clone / "patches" / "vllm" / "crlf.patch").unlink()
    done = Checkout(root=clone, cache=tmp_path / "cache").run("lint")
    assert done.status == 0, done.err


def test_the_hooks_are_the_steps_of_the_suite() -> None:
    config = ROOT / ".pre-commit-config.yaml"
    done = subprocess.run([str(BIN / "pre-commit"), "validate-config", str(config)], check=False)
    assert done.returncode == 0
    (repository,) = read_yaml(config)["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert list(hooks) == list(steps([]))
    for name, hook in hooks.items():
        assert hook["entry"] == f"python3 build.py test --step {name}"
        assert hook["pass_filenames"] is False
        assert (hook.get("stages") == ["manual"]) == (name == "recipe")


def test_a_hook_fails_where_its_step_does(tmp_path: Path) -> None:
    """pre-commit runs a hook as git would, in a repository with a file out of form."""
    (tmp_path / "x.py").write_text("x=1\n", encoding="utf-8")
    config = read_yaml(ROOT / ".pre-commit-config.yaml")
    hook = next(h for h in config["repos"][0]["hooks"] if h["id"] == "format")
    (command,) = [one for name, one in steps([]).items() if name == hook["id"]]
    done = subprocess.run([*command[:5], "x.py"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_an_issue_form_is_one(path: Path) -> None:
    schema = "github-issue-config" if path.name == "config.yml" else "github-issue-forms"
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", f"vendor.{schema}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_forms_ask_for_what_the_doctors_say() -> None:
    asked: dict[str, str] = {}
    for path in FORMS:
        for field in read_yaml(path).get("body", []):
            if field.get("id") == "doctor":
                asked[path.stem] = field["attributes"]["description"]
                assert field["attributes"]["render"] == "json"
    assert "`python -m vllm.sm12x.doctor --json`" in asked["serving"]
    assert "`python build.py doctor --json`" in asked["building"]
