# SPDX-License-Identifier: Apache-2.0
"""Read from an upstream tree what a base pins: commit, torch, Python, CUDA, inner sources."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from packaging.requirements import Requirement

from recipe.bases.releases import InnerPin
from recipe.ground.errors import ConfigError

# Reads a file of the tree as text; ConfigError where the tree has no such file.
Reader = Callable[[str], str]

CMAKE_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|#[^\n]*|([()])|([^\s()"#]+)', re.DOTALL)


def text_of(content: bytes, path: str) -> str:
    """A file of an upstream tree as text; ConfigError for one that is none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise unknown(f"{path} isn't UTF-8: {error.reason} at byte {error.start}") from None


def commit(read: Reader) -> str:
    """The first digits of the release's commit, from the sdist's version file."""
    path, text = first_of(read, "vllm/_version.py", "vllm/commit_id.py")  # up to v0.6.3
    found = re.search(r"""commit(?:_id|__) = ['"]g?([0-9a-f]{7,40})['"]""", text)
    if found is None:
        raise unknown(f"{path} names no commit")
    return found[1]


def first_of(read: Reader, *paths: str) -> tuple[str, str]:
    """The first of these files that the tree has, with its text; the error is of the first."""
    errors = []
    for path in paths:
        try:
            return path, read(path)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def torch_version(read: Reader) -> str:
    path, requirements = first_of(read, "requirements/cuda.txt", "requirements-cuda.txt")
    for line in requirements.splitlines():
        text = line.partition("#")[0].strip()
        if re.match(r"torch\s*==", text):
            with read_as(path):
                return str(next(iter(Requirement(text).specifier)).version)
    raise unknown(f"{path} doesn't fix torch")


def python_range(read: Reader) -> str:
    with read_as("pyproject.toml"):
        project = tomllib.loads(read("pyproject.toml")).get("project", {})
        if "requires-python" in project:
            return str(project["requires-python"])
    return in_code(read, "python_requires", r"[<>=!~][\d.,<>=!~ *]*", "setup.py")


def cuda_version(read: Reader) -> str:
    """major.minor of the toolkit that upstream's images and wheels are built with."""
    path = "docker/versions.json"
    try:
        text = read(path)
    except ConfigError as lacking:  # in an older release the code says it
        try:
            return in_code(read, "MAIN_CUDA_VERSION", r"\d+\.\d+", "setup.py", "vllm/envs.py")
        except ConfigError:
            raise lacking from None
    with read_as(path):
        versions = json.loads(text)["variable"]
        return ".".join(str(versions["CUDA_VERSION"]["default"]).split(".")[:2])


@contextmanager
def read_as(path: str) -> Iterator[None]:
    """ConfigError where the file has another form than the block reads."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise unknown(f"{path} can't be read: {type(error).__name__}: {error}") from None


def in_code(read: Reader, name: str, pattern: str, *paths: str) -> str:
    """What one of these files sets a name to, or takes where the environment says nothing."""
    value = rf"""["']({pattern})["']"""
    for path in paths:
        text = read(path)
        found = re.search(rf"\b{name}\s*=\s*{value}", text) or re.search(
            rf"""{name}["'],\s*(?:["']["']\)[^\n]*\bor\s+)?{value}""", text
        )
        if found is not None:
            return found[1]
    raise unknown(f"none of {', '.join(paths)} says {name}")


def inner_pins(read: Reader, cmake_files: Iterable[str]) -> tuple[InnerPin, ...]:
    """Every FetchContent source of a CUDA build, by name, sorted."""
    found: dict[str, InnerPin] = {}
    for path in cmake_files:
        for pin in file_pins(read(path)):
            found[pin.name] = pin
    return tuple(found[name] for name in sorted(found))


def file_pins(text: str) -> list[InnerPin]:
    """The FetchContent commands of one CMake file that have a GIT_TAG.

    A variable has the value of its last set() before the command: where branches differ, upstream
    writes the CUDA one last.
    """
    variables: dict[str, str] = {}
    pins = []
    for command, arguments in commands(text):
        if command == "set" and len(arguments) >= 2:
            variables[arguments[0]] = arguments[1]
        elif command in ("fetchcontent_declare", "fetchcontent_populate"):
            options = dict(itertools.pairwise(arguments))
            if "GIT_TAG" in options:
                repository = expand(options.get("GIT_REPOSITORY", ""), variables)
                pin = expand(options["GIT_TAG"], variables)
                pins.append(InnerPin(name=arguments[0], repository=repository, pin=pin))
    return pins


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(lower-case name, arguments) of each top-level command of a CMake file, comments dropped."""
    found: list[tuple[str, list[str]]] = []
    name = ""
    depth = 0
    for quoted, bracket, word in CMAKE_TOKEN.findall(text):
        if bracket == "(":
            depth += 1
            if depth == 1:
                found.append((name.lower(), []))
        elif bracket == ")":
            depth = max(depth - 1, 0)
        elif depth == 0:
            name = word
        elif word or quoted:
            found[-1][1].append(word or quoted)
    return found


def expand(value: str, variables: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: variables.get(match[1], match[0]), value)


def unknown(what: str) -> ConfigError:
    return ConfigError(
        what,
        means="The release is laid out in a way this recipe doesn't know.",
        next="look at the file in the tree and update recipe/bases/pins.py",
    )
