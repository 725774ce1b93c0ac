# SPDX-License-Identifier: Apache-2.0
"""The options that verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from recipe.bases.releases import DEFAULT_ARCH
from recipe.ground.project import Project

Verb = Callable[[argparse.Namespace, Project], "dict[str, Any]"]


def verb(verbs: Any, name: str, help: str, run: Verb) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.set_defaults(run=run)
    return parser


def add_base(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", default="latest", help="a pinned release: v0.33.0, v0.33, latest")


def add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        default="auto",
        help="auto or sdist: the pinned archive; git: upstream's repository; a git URL; a folder",
    )
    add_offline(parser)


def add_offline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offline", action="store_true", help="use only what the cache holds")


def add_target(parser: argparse.ArgumentParser) -> None:
    """What a wheel is for, and how its components are compiled."""
    target = parser.add_argument_group("what the wheel is for")
    target.add_argument("--arch", default=DEFAULT_ARCH, help="TORCH_CUDA_ARCH_LIST of the build")
    target.add_argument(
        "--platform", default="auto", help="x86_64, aarch64 or a tag: manylinux_2_28_aarch64"
    )
    target.add_argument("--python", metavar="3.N", help="compile and test with this Python")
    compiling = parser.add_argument_group("what is compiled")
    compiling.add_argument(
        "--native",
        default="auto",
        help="auto: compile what the series and --arch make stale; none: take upstream's binaries; "
        "all: compile everything; or components by name: _moe_C,_C",
    )
    compiling.add_argument(
        "--sources",
        action="append",
        default=[],
        metavar="DIR|NAME=PATH",
        help="inner sources to compile from: a folder of them, or one by name (again for more)",
    )
    compiling.add_argument("--jobs", type=positive, help="compilers at once (default: by memory)")
    compiling.add_argument(
        "--compiler-cache",
        choices=("auto", "ccache", "sccache", "none"),
        default="auto",
        help="auto: sccache if the environment names a shared cache, else ccache if it is there",
    )


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def add_torch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--test-torch",
        metavar="VERSION",
        help="test with this torch instead of the base's own (which is several GB)",
    )


def add_upstream(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--upstream", choices=("vllm", "deepgemm"), default="vllm", help="which upstream's series"
    )
