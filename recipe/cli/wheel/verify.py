# SPDX-License-Identifier: Apache-2.0
"""The verb verify: whether a wheel is what this repository makes of upstream's, to the byte."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.bases.releases import DEFAULT_ARCH, Bases, load_bases
from recipe.cli.answers import show
from recipe.cli.options import add_offline, verb
from recipe.ground.errors import AuditError
from recipe.ground.log import Log, say
from recipe.ground.project import Project

if TYPE_CHECKING:
    from recipe.build.again import Again
    from recipe.build.verify import Verdict

MOST = 40  # findings that a person is shown


def add_verify(verbs: Any, name: str) -> None:
    parser = verb(
        verbs,
        name,
        "prove that every member of a wheel is upstream's, a patch's or the overlay's",
        run_verify,
    )
    parser.add_argument("wheel", type=Path, metavar="WHEEL", help="a wheel of this repository's")
    parser.add_argument(
        "--key",
        type=Path,
        metavar="PUBLIC",
        help="the public key that the statement beside the wheel must be signed with",
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="build it again and say what differs; with --arch and --native as they were then",
    )
    parser.add_argument(
        "--arch",
        help=f"what it was built with (default: its statement's, {DEFAULT_ARCH} without one)",
    )
    parser.add_argument("--native", help="what it was built with (default: its statement's)")
    add_offline(parser)


def run_verify(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases = load_bases(project.bases_file)
    say(f"verifying {options.wheel.name}; cache {project.cache}")
    from recipe.build import verify

    log = Log()
    verdict = verify.verify(
        project, bases, options.wheel, key=options.key, offline=options.offline, log=log
    )
    again = rebuilt(options, project, bases, verdict, log) if options.rebuild else None
    show(options, as_text(verdict, again))
    document = verify.as_json(verdict, as_json(again) if again else None)
    if not (again.same if again else verdict.proven):
        say(str(not_proven(verdict)))
        document["exit_code"] = AuditError.exit_code
    return document


def rebuilt(
    options: argparse.Namespace, project: Project, bases: Bases, verdict: Verdict, log: Log
) -> Again:
    from recipe.build import again, pipeline
    from recipe.cli.wheel.native import native_options
    from recipe.wheel import statement

    asked = statement.asked_of(statement.read_statement(verdict.wheel))
    named = argparse.Namespace(
        native=again.asked_native(verdict, options.native or asked.get("native")),
        sources=[],
        jobs=None,
        compiler_cache="auto",
        python=verdict.said.built.get("python"),
        offline=options.offline,
    )
    wanted = pipeline.Options(
        arch=options.arch or asked.get("arch", DEFAULT_ARCH),
        platform=again.platform_of(verdict),
        source="auto",
        out=project.cache,
        offline=options.offline,
        test=False,
        test_torch=None,
        python=named.python,
        native=native_options(named, project, bases, verdict.base),
    )
    return again.build_again(project, bases, verdict, wanted, log)


def as_text(verdict: Verdict, again: Again | None) -> str:
    """For a person: what it is, whose its members are, and what isn't as it must be."""
    members = ", ".join(f"{count} {by}" for by, count in sorted(verdict.members.items()))
    lines = [
        f"wheel      {verdict.wheel.name}",
        f"sha256     {verdict.sha256}",
        f"base       {verdict.base.tag}, {verdict.plan.source.origin}",
        f"upstream   {verdict.plan.published.name} sha256:{verdict.plan.published.sha256}",
        f"patchset   {verdict.plan.series.digest}",
        f"members    {members or 'not compared'}",
        f"statement  {verdict.statement}",
    ]
    if verdict.on_its_word:
        lines.append("compiled; that these are what the sources give only --rebuild shows:")
        lines += [f"  {name}" for name in verdict.on_its_word]
    if verdict.said.patchset not in ("", verdict.plan.series.digest):
        lines.append(f"it says    {verdict.said.patchset}: another state of this repository?")
    if verdict.findings:
        lines.append("NOT as it must be:")
        lines += [f"  {one}" for one in verdict.findings[:MOST]]
        if len(verdict.findings) > MOST:
            lines.append(f"  and {len(verdict.findings) - MOST} more (--json has them all)")
    if again:
        from recipe.build.again import as_lines

        lines += as_lines(again)
    if again.same if again else verdict.proven:
        lines.append("verdict    every byte is accounted for")
    return "\n".join(lines)


def as_json(again: Again) -> dict[str, Any]:
    rows = [{"member": d.member, "how": d.how, "what": d.what} for d in again.differences]
    return {"same": again.same, "differences": rows}


def not_proven(verdict: Verdict) -> AuditError:
    return AuditError(
        f"{verdict.wheel.name} is not what this repository makes",
        means="What is named above is neither upstream's nor this repository's. Don't install it.",
        next=f"python build.py --base {verdict.base.tag}   # makes the wheel; or check out the "
        "revision that it was made of",
    )
