# SPDX-License-Identifier: Apache-2.0
"""How a release's own CMake takes its inner sources, read from its files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from recipe.bases.pins import Reader, commands, expand, file_pins, unknown

COMPILED = {"define_extension_target", "python_add_library", "add_library", "target_sources"}
TARGETS = {"define_extension_target", "add_custom_target", "python_add_library", "target_sources"}
# Commands whose paths below a source's folder must exist; list() is used for alternatives.
READS = {"set", "file", "install", "python_add_library", "target_include_directories"}
READS |= {"add_custom_command"}
CUTLASS_HEADERS = "CUTLASS_INCLUDE_DIR"
# What is read by CMake files that are inside the source, not in vLLM's tree.
ALSO_READ = {
    "cutlass": ("include/cutlass/cutlass.h", "tools/util/include"),
    "tml_fa4": ("flash_attn/cute",),
    "triton_kernels": ("__init__.py",),
    "vllm-flash-attn": ("CMakeLists.txt", "csrc/cutlass/include"),
}
# Fetched by nothing but builds for AMD's GPUs, and larger than all the rest together.
NEVER_FETCHED = ("csrc/composable_kernel",)
PLACEHOLDER = """\
This stands where CMake looks for a source. No component that is built here is made of it.
"""
# CUTLASS's own CMakeLists.txt sets these for vLLM's; a copy of its headers alone has none.
CUTLASS_CMAKE = """\
set(CUTLASS_DIR "${CMAKE_CURRENT_SOURCE_DIR}" CACHE PATH "CUTLASS")
set(CUTLASS_INCLUDE_DIR "${CMAKE_CURRENT_SOURCE_DIR}/include" CACHE PATH "CUTLASS's headers")
set(CUTLASS_TOOLS_UTIL_INCLUDE_DIR "${CMAKE_CURRENT_SOURCE_DIR}/tools/util/include" CACHE INTERNAL
    "CUTLASS's utilities")
"""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """One inner source as a release declares it.

    variable: the environment variable that names its folder. targets: what is compiled or installed
    from it. submodules: those that upstream fetches, None for all. subfolder: what of a checkout
    the variable must name. required: paths that must be in that folder.
    """

    name: str
    variable: str
    targets: tuple[str, ...]
    submodules: tuple[str, ...] | None
    subfolder: str
    required: tuple[str, ...]


def declared_sources(read: Reader, cmake_files: Iterable[str]) -> tuple[Declared, ...]:
    """Every inner source of a CUDA build, by name; ConfigError where the layout isn't known."""
    found: dict[str, Declared] = {}
    headers: set[str] = set()
    for path in cmake_files:
        text = read(path)
        parsed = commands(text)
        names = {pin.name for pin in file_pins(text)}
        users = targets_of(parsed, headers_only=path == "CMakeLists.txt")
        if CUTLASS_HEADERS in text:
            headers |= users
        for name in names:
            found[name] = declared(name, path, text, parsed, users)
    if "cutlass" in found:
        cutlass = found["cutlass"]
        found["cutlass"] = Declared(**{**vars(cutlass), "targets": tuple(sorted(headers))})
    return tuple(found[name] for name in sorted(found))


def declared(
    name: str, path: str, text: str, parsed: list[tuple[str, list[str]]], users: set[str]
) -> Declared:
    variables = sorted(set(re.findall(r"ENV\{(\w+_SRC_DIR)\}", text)))
    if len(variables) != 1:
        raise unknown(f"{path} takes {name}'s folder from {variables or 'no variable'}")
    fetches = [arguments for _, arguments in parsed if "GIT_TAG" in arguments]
    wanted = {tuple(values_of("GIT_SUBMODULES", arguments)) for arguments in fetches}
    submodules = next((one for one in wanted if one), None)
    subfolders = {one for arguments in fetches for one in values_of("SOURCE_SUBDIR", arguments)}
    subfolder = min(subfolders, default="")
    required = {*ALSO_READ.get(name, ()), *(submodules or ())}
    if not subfolder:
        required |= paths_below(name, parsed)
    return Declared(
        name=name,
        variable=variables[0],
        targets=tuple(sorted(users)),
        submodules=submodules,
        subfolder=subfolder,
        required=tuple(sorted(required)),
    )


def targets_of(parsed: list[tuple[str, list[str]]], *, headers_only: bool) -> set[str]:
    """The targets a file defines; of the main file only those with CUTLASS's headers."""
    found: set[str] = set()
    for command, arguments in parsed:
        if command in TARGETS and arguments:
            if not headers_only or any(CUTLASS_HEADERS in one for one in arguments):
                found.add(arguments[0])
        elif command == "foreach" and not headers_only:
            # flash-attention defines its own targets; vLLM's file names them in a loop.
            found |= {one for one in arguments if re.fullmatch(r"_\w+_C", one)}
    return found


def scripted(read: Reader, cmake_files: Iterable[str]) -> frozenset[str]:
    """Targets that CMake doesn't compile itself: it runs a script for them, or copies files."""
    first = [
        (command, arguments[0])
        for path in cmake_files
        for command, arguments in commands(read(path))
        if arguments
    ]
    custom = {name for command, name in first if command == "add_custom_target"}
    return frozenset(custom - {name for command, name in first if command in COMPILED})


def values_of(keyword: str, arguments: list[str]) -> list[str]:
    """What follows a keyword, up to the next one."""
    if keyword not in arguments:
        return []
    after = arguments[arguments.index(keyword) + 1 :]
    end = next((n for n, one in enumerate(after) if re.fullmatch(r"[A-Z_]+", one)), len(after))
    return after[:end]


def paths_below(name: str, parsed: list[tuple[str, list[str]]]) -> set[str]:
    """Paths below the source's folder that the commands of a file name in full."""
    pattern = re.compile(rf"\$\{{{re.escape(name)}_SOURCE_DIR\}}/([^\s$*]+?)/?")
    variables: dict[str, str] = {}
    found: set[str] = set()
    for command, arguments in parsed:
        if command == "set" and len(arguments) == 2 and arguments[0] != f"{name}_SOURCE_DIR":
            variables[arguments[0]] = arguments[1]
        if command in READS:
            matches = (pattern.fullmatch(expand(one, variables)) for one in arguments)
            found |= {match[1] for match in matches if match is not None}
    return found


def placeholder(source: Declared) -> dict[str, bytes]:
    """What a folder must hold for a release to configure where nothing is built from it.

    FetchContent refuses an empty folder, FlashMLA's interface is read while CMake configures, and
    a source file that a target names must exist when it generates.
    """
    files = {"PLACEHOLDER": PLACEHOLDER.encode()}
    for path in source.required:
        is_file = "." in path.rsplit("/", 1)[-1]
        files[path if is_file else f"{path}/PLACEHOLDER"] = b""
    if source.name == "cutlass":
        files["CMakeLists.txt"] = CUTLASS_CMAKE.encode()
    return files
