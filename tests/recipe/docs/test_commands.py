# SPDX-License-Identifier: Apache-2.0
"""Every command that a page shows is one that exists, with options that it has.

tests/integration/test_docs_run.py runs those that can be run here, and
tests/patched/test_docs_serve.py holds the lines of `vllm serve` against the parser of the release.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from recipe.bases.releases import load_bases
from recipe.cli.main import parse
from recipe.cli.verbs import VERBS
from recipe.ground.errors import RecipeError
from recipe.ground.project import open_project
from recipe.wheel.write import wheel_name
from tests.recipe.docs.pages import ROOT, Command, page, pages

COMMANDS = [command for one in pages() for command in one.commands()]
# What the distributions call what a page has installed.
PACKAGES = {"git", "gcc", "g++", "ccache", "python3-dev", "python3-venv", "g++-aarch64-linux-gnu"}
# Pages whose blocks are walked through for real, git and all.
WALKED = ("CONTRIBUTING.md", "docs/howto/patches.md")


def test_there_are_commands_to_judge() -> None:
    assert len(COMMANDS) > 60
    assert {command.page for command in COMMANDS} >= {"README.md", "docs/howto/build.md"}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_one_that_exists(command: Command) -> None:
    if not command.words:
        return  # only a variable is set
    judge = JUDGES.get(command.words[0])
    assert judge is not None, f"nobody knows what to make of {command}"
    judge(command)


def of_python(command: Command) -> None:
    match command.words[1:]:
        case ("build.py", *arguments):
            of_build(command, arguments)
        case ("-m", "venv", _):
            pass
        case ("-m", module, *options):
            of_module(command, module, options)
        case ("-c", source):
            compile(source, str(command), "exec")
        case (script, *options) if script.endswith(".py"):
            of_module(command, script.removesuffix(".py").replace("/", "."), options)
        case _:
            pytest.fail(f"what is that? {command}")


def of_build(command: Command, arguments: list[str]) -> None:
    given = [word for word in arguments if word != "..."]
    if ("..." in arguments and not given) or "--help" in given:
        return
    try:
        options = parse(given)
    except SystemExit:
        pytest.fail(f"build.py doesn't know that: {command}")
    for name in [getattr(options, "base", None), getattr(options, "origin", None)]:
        if isinstance(name, str):
            load_bases(open_project().bases_file).find(name)


def file_of(module: str) -> Path:
    """What Python runs for a module of ours."""
    top = ROOT / "overlay" / "vllm" if module.startswith("vllm.") else ROOT
    path = top / f"{module.replace('.', '/')}.py"
    return path if path.exists() else top / module.replace(".", "/") / "__main__.py"


def of_module(command: Command, module: str, options: list[str]) -> None:
    """A module of ours that can be run, and that has the options."""
    path = file_of(module)
    source = path.read_text(encoding="utf-8")
    assert "__name__" in source or path.name == "__main__.py"
    sources = [one.read_text(encoding="utf-8") for one in path.parent.glob("*.py")]
    for option in options:
        if option.startswith("--"):
            assert any(f'"{option}"' in text for text in sources), command


def of_pip(command: Command) -> None:
    """What is installed is the wheel that the build above it makes, under its whole name."""
    assert command.words[1] == "install"
    if command.words[2:3] == ("--extra-index-url",):
        of_index(command, command.words[3:])
        return
    for word in command.words[2:]:
        if not word.endswith(".whl"):
            assert word in ("--no-deps", "pre-commit"), command
            continue
        assert "*" not in word, f"dist/ may hold wheels for two machines: {command}"
        bases = load_bases(open_project().bases_file)
        name = word.removeprefix("dist/")
        _, version, _, tags = parse_wheel_filename(name)
        base = bases.find(f"v{version.public}")
        assert str(version) == f"{base.version}+sm12x.{bases.revision}", command
        (platform,) = {tag.platform for tag in tags}
        published = base.wheels[platform.split("_", 3)[3]].name
        assert name == wheel_name(published, str(version), platform), command


def of_index(command: Command, words: tuple[str, ...]) -> None:
    """The index that the page calls so, and a whole version of a wheel that we make."""
    bases = load_bases(open_project().bases_file)
    address, wanted = words
    assert address == "$INDEX", command
    assert "`INDEX` is the address" in (ROOT / command.page).read_text(encoding="utf-8"), command
    version = wanted.removeprefix("vllm==")
    base = bases.find(f"v{version.partition('+')[0]}")
    assert wanted == f"vllm=={base.version}+sm12x.{bases.revision}", command


def of_uv(command: Command) -> None:
    match command.words[1:]:
        case ("pip", "install", "--index", *words):
            of_index(command, tuple(words))
        case ("pip", "compile", "--generate-hashes"):
            pass
        case ("run", "build.py", *arguments):
            of_build(command, list(arguments))
        case _:
            pytest.fail(f"what is that? {command}")


def of_git(command: Command) -> None:
    if command.words[1] not in ("clone", "checkout", "describe"):
        assert command.page in WALKED, f"nobody runs that: {command}"


def of_docker(command: Command) -> None:
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", docker, re.M))
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("build", choices=["build"])
    parser.add_argument("--target", choices=stages)
    parser.add_argument("--platform", choices=["linux/arm64", "linux/amd64,linux/arm64"])
    for option in ("--build-context", "--secret", "--output", "--build-arg"):
        parser.add_argument(option, action="append", default=[])
    parser.add_argument("folder", choices=["."])
    given = parser.parse_args(list(command.words[1:]))
    assert all(one.partition("=")[0] in stages for one in given.build_context), command
    for secret in given.secret:
        (name,) = re.findall(r"(?:^|,)(id=[^,]+)", secret)
        assert f"type=secret,{name}," in docker, command


def of_apt(command: Command) -> None:
    assert command.words[1] == "install" and set(command.words[2:]) <= PACKAGES, command


def of_vllm(command: Command) -> None:
    """The parser of the release judges the rest, where the wheel is."""
    assert command.words[1] == "serve" and not command.words[2].startswith("-"), command


def of_shell(command: Command) -> None:
    """A program of the system's; what it is given stands in the page."""


def of_script(command: Command) -> None:
    assert (ROOT / command.words[0]).stat().st_mode & 0o100, command


JUDGES: dict[str, Callable[[Command], None]] = {
    "python": of_python,
    "python3": of_python,
    "uv": of_uv,
    "pip": of_pip,
    "git": of_git,
    "docker": of_docker,
    "apt-get": of_apt,
    "vllm": of_vllm,
    "pre-commit": of_shell,
    ".": of_shell,
    "cd": of_shell,
    "export": of_shell,
    "curl": of_shell,
    "ip": of_shell,
    "sed": of_shell,
    "tests/container/run.sh": of_script,
}


def options_of_recipe() -> set[str]:
    verbs = argparse.ArgumentParser().add_subparsers()
    for name, add in VERBS.items():
        add(verbs, name)
    return {
        option
        for parser in verbs.choices.values()
        for action in parser._actions
        for option in action.option_strings
    }


def test_every_option_that_a_text_names_is_one() -> None:
    """Options in running text: the recipe's, or of a command that stands on the same page."""
    known = options_of_recipe()
    # Those of `vllm serve` are judged where the wheel is; the others are other programs'.
    others = {
        "--safetensors-load-strategy",
        "--kv-cache-dtype",
        "--pipeline-parallel-size",
        "--decode-context-parallel-size",
        "--fail-on-environ-validation",
    }
    others |= {"--enforce-eager", "--max-num-seqs", "--max-model-len", "--gpu-memory-utilization"}
    others |= {"--fixup", "--autosquash", "--quick", "--build-arg"}
    for one in pages():
        if one.name in ("CHANGELOG.md", "docs/decisions.md", "docs/kernels.md"):
            continue  # they tell of other programs as well
        shown = {word.split("=")[0] for c in one.commands() for word in c.words}
        for command in one.commands():
            if command.words[1:2] == ("-m",):
                sources = file_of(command.words[2]).parent.glob("*.py")
                texts = (source.read_text(encoding="utf-8") for source in sources)
                shown |= {option for text in texts for option in re.findall(r'"(--[\w-]+)"', text)}
        for line, text in one.inline:
            for option in re.findall(r"(?:^| )(--[a-z][a-z-]+)", text):
                assert option in known | others | shown, f"{one.name}:{line}: {option}"


SEEN = (
    AssertionError,
    RecipeError,
    FileNotFoundError,
    argparse.ArgumentError,
    pytest.fail.Exception,
)


def test_a_misspelt_command_would_be_seen() -> None:
    readme = page("README.md")
    for text in (
        "python build.py --bsae v0.33.0",
        "python build.py --base v0.33.9",
        "python -m vllm.sm12x.docter",
        "python -m vllm.sm12x.doctor --jsn",
        "pip install dist/vllm-0.33.0+sm12x.1-*.whl",
        "pip install dist/vllm-0.33.0+sm12x.9-cp38-abi3-manylinux_2_28_x86_64.whl",
        "docker build --target nothing .",
        "apt-get install gpp",
        "cowsay moo",
    ):
        with pytest.raises(SEEN):
            test_a_command_is_one_that_exists(readme.command(1, text))
