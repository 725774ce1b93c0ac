# SPDX-License-Identifier: Apache-2.0
"""Every verb with its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipe.bases.releases import DEFAULT_ARCH
from recipe.cli import series_verbs
from recipe.cli import verbs as do
from recipe.ground.project import Project

Verb = Callable[[argparse.Namespace, Project], "dict[str, Any]"]


def verb(verbs: Any, name: str, help: str, run: Verb) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
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
    parser.add_argument("--arch", default=DEFAULT_ARCH, help="TORCH_CUDA_ARCH_LIST of the build")
    parser.add_argument(
        "--platform", default="auto", help="x86_64, aarch64 or a tag: manylinux_2_28_aarch64"
    )
    parser.add_argument(
        "--native",
        default="auto",
        help="auto: compile what the series and --arch make stale; none: take upstream's binaries; "
        "all: compile everything; or components by name: _moe_C,_C",
    )
    parser.add_argument(
        "--sources",
        action="append",
        default=[],
        metavar="DIR|NAME=PATH",
        help="inner sources to compile from: a folder of them, or one by name (again for more)",
    )
    parser.add_argument("--jobs", type=positive, help="compilers at once (default: by memory)")
    parser.add_argument(
        "--compiler-cache",
        choices=("auto", "ccache", "sccache", "none"),
        default="auto",
        help="auto: sccache if the environment names a shared cache, else ccache if it is there",
    )
    parser.add_argument("--python", metavar="3.N", help="compile and test with this Python")


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


def add_build(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "make a tested wheel", do.run_build)
    add_base(parser)
    add_target(parser)
    add_source(parser)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="where the wheel goes")
    parser.add_argument("--no-test", action="store_true", help="don't test the wheel")
    add_torch(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def add_plan(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "print what build would do and why", do.run_plan)
    add_base(parser)
    add_target(parser)
    add_source(parser)


def add_apply(verbs: Any, name: str) -> None:
    parser = verb(
        verbs,
        name,
        "write the patched tree as a git repository, one commit a patch",
        series_verbs.run_apply,
    )
    add_base(parser)
    add_source(parser)
    parser.add_argument("--tree", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--until", metavar="PATCH", help="stop before this patch")
    add_upstream(parser)


def add_export(verbs: Any, name: str) -> None:
    parser = verb(
        verbs, name, "write the series of a base for quilt or for git am", series_verbs.run_export
    )
    add_base(parser)
    add_source(parser)
    add_upstream(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--quilt", type=Path, metavar="DIR", help="a quilt patches folder")
    target.add_argument("--git", type=Path, metavar="DIR", help="numbered mails for git am")


def add_lint(verbs: Any, name: str) -> None:
    parser = verb(
        verbs, name, "check headers, order, form and due conditions", series_verbs.run_lint
    )
    parser.add_argument("--stats", action="store_true", help="upstream lines touched on each base")


def add_matrix(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "say what every topic is on every release", series_verbs.run_matrix)
    add_offline(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a web page as well")


def add_rebase(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "move the series to another release", series_verbs.run_rebase)
    parser.add_argument("--onto", metavar="BASE", help="the release; pinned first if it isn't yet")
    parser.add_argument(
        "--from", dest="origin", metavar="BASE", help="where the series is known to apply"
    )
    parser.add_argument("--exec", metavar="CMD", help="run in the tree after each patch")
    parser.add_argument(
        "--accept",
        action="append",
        default=[],
        metavar="PATCH",
        help="take its merge although it does something else than before; may be repeated",
    )
    then = parser.add_mutually_exclusive_group()
    then.add_argument("--continue", dest="resume", action="store_true", help="go on after a stop")
    then.add_argument(
        "--skip",
        nargs="?",
        const="not-needed",
        choices=("upstreamed", "not-needed"),
        help="leave the patch out, because upstream has it or it isn't needed (the default)",
    )
    then.add_argument("--abort", action="store_true", help="give the rebase up")
    add_source(parser)
    add_upstream(parser)


def add_refresh(verbs: Any, name: str) -> None:
    parser = verb(
        verbs, name, "write patches anew, from the commits of a tree", series_verbs.run_refresh
    )
    parser.add_argument(
        "patches", nargs="*", metavar="PATCH", help="without a tree: only these, by path or topic"
    )
    parser.add_argument(
        "--tree", type=Path, metavar="DIR", help="a tree that apply or new made, with your commits"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 4 if something would")
    parser.add_argument("--offline", action="store_true", help="use only what the cache holds")
    add_upstream(parser)


def add_new(verbs: Any, name: str) -> None:
    parser = verb(
        verbs, name, "start a patch: a tree to edit, and a message to fill in", series_verbs.run_new
    )
    parser.add_argument(
        "topic", metavar="TOPIC", help="what it is about: small-letters-and-hyphens"
    )
    add_base(parser)
    add_source(parser)
    parser.add_argument("--tree", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--after", metavar="PATCH", help="the patch it goes on (default: all)")
    add_upstream(parser)


def add_bisect(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "find the patch that makes a command fail", series_verbs.run_bisect)
    add_base(parser)
    add_source(parser)
    parser.add_argument(
        "--test",
        required=True,
        metavar="CMD",
        help="what sh runs in the tree: 0 is good, 125 can't be judged, anything else is bad",
    )
    parser.set_defaults(upstream="vllm")


def add_audit(verbs: Any, name: str) -> None:
    parser = verb(
        verbs, name, "say what GPU code a wheel holds for the devices asked for", run_audit
    )
    parser.add_argument("wheel", type=Path, metavar="WHEEL", help="a .whl file, ours or any other")
    parser.add_argument("--arch", default=DEFAULT_ARCH, help="the devices: 12.1, 12.0;12.1, 9.0")
    parser.add_argument(
        "--against",
        metavar="WHEEL",
        help="show what differs from this wheel; upstream: the published one of the same base",
    )
    add_offline(parser)


def run_audit(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    # Reading GPU code needs libraries that no other verb waits for.
    from recipe.cli.wheel import audit as audit_verb

    return audit_verb.run_audit(options, project)


def add_upstream(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--upstream", choices=("vllm", "deepgemm"), default="vllm", help="which upstream's series"
    )


def add_bases(verbs: Any, name: str) -> None:
    parser = verb(
        verbs, name, "list the pinned releases, pin one, or look for newer ones", do.run_bases
    )
    parser.add_argument("action", nargs="?", choices=("list", "add", "check"), default="list")
    parser.add_argument("tags", nargs="*", metavar="vX.Y.Z", help="releases to pin")


def add_test(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "run the test suite", do.run_test)
    parser.add_argument(
        "--base",
        action="append",
        default=[],
        help="also build this base's wheel and test it; may be repeated; all for every base",
    )
    add_torch(parser)
    parser.add_argument("pytest", nargs="*", help="after --: what to pass to pytest")


def add_doctor(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "say what this machine lacks for which verb", do.run_doctor)
    parser.add_argument("--platform", default="auto", help="what wheels are built for: aarch64")


VERBS: dict[str, Callable[[Any, str], None]] = {
    "build": add_build,
    "plan": add_plan,
    "apply": add_apply,
    "export": add_export,
    "lint": add_lint,
    "matrix": add_matrix,
    "rebase": add_rebase,
    "refresh": add_refresh,
    "new": add_new,
    "bisect": add_bisect,
    "audit": add_audit,
    "bases": add_bases,
    "test": add_test,
    "doctor": add_doctor,
}
