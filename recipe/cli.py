# SPDX-License-Identifier: Apache-2.0
"""The command line: verbs, their options, and what becomes of an error."""

from __future__ import annotations

import argparse
import errno
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipe.config import DEFAULT_ARCH, Base, Bases, Project, load_bases, open_project
from recipe.errors import INTERRUPTED, RecipeError
from recipe.log import Log, say

DESCRIPTION = """\
From a vLLM release tag to a tested SM12x wheel. Without a verb, `build` is meant:

  python build.py --base v0.33.0 --arch 12.1      a tested wheel in dist/
  python build.py plan --base v0.33.0             what that would do, and why
"""
EPILOG = """\
exit codes: 0 done; 2 usage or config; 3 source missing or hash mismatch; 4 a patch doesn't apply;
6 audit; 7 tests; 8 this machine lacks something; 130 interrupted
"""
Verb = Callable[[argparse.Namespace, Project], "dict[str, Any]"]


def main(arguments: Sequence[str]) -> int:
    options = parse(list(arguments))
    try:
        document = options.run(options, open_project())
    except RecipeError as error:
        say(str(error))
        if options.json:
            emit(
                {
                    "error": {
                        "exit_code": error.exit_code,
                        "what": error.what,
                        "means": error.means,
                        "next": error.next,
                    }
                }
            )
        return error.exit_code
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        say(
            f"error: no room left on the disk: {error.filename or ''}\n"
            "  next: free some space, or name a larger disk: SM12X_CACHE=DIR python build.py ..."
        )
        return 8
    except KeyboardInterrupt:
        say("\ninterrupted; the next run goes on from what is finished")
        return INTERRUPTED
    status = int(document.pop("exit_code", 0))
    if options.json:
        emit(document)
    return status


def emit(document: dict[str, Any]) -> None:
    print(json.dumps({"schema": 1, **document}, indent=1))


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="build.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, add in VERBS.items():
        add(verbs, name)
    asks_help = bool(arguments) and arguments[0] in ("-h", "--help")
    if not asks_help and (not arguments or arguments[0] not in VERBS) and named_option(arguments):
        arguments.insert(0, "build")
    return parser.parse_args(arguments)


def named_option(arguments: list[str]) -> bool:
    """Without a verb only options may come: a misspelled verb mustn't start a build."""
    return not arguments or arguments[0].startswith("-")


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
    parser.add_argument("--offline", action="store_true", help="use only what the cache holds")


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", default=DEFAULT_ARCH, help="TORCH_CUDA_ARCH_LIST of the build")
    parser.add_argument(
        "--platform", default="auto", help="x86_64, aarch64 or a tag: manylinux_2_28_aarch64"
    )
    parser.add_argument(
        "--native",
        default="auto",
        help="auto or none: reuse upstream's published binaries and say which are stale",
    )


def add_torch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--test-torch",
        metavar="VERSION",
        help="test with this torch instead of the base's own (which is several GB)",
    )


def add_build(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "make a tested wheel", run_build)
    add_base(parser)
    add_target(parser)
    add_source(parser)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="where the wheel goes")
    parser.add_argument("--no-test", action="store_true", help="don't test the wheel")
    parser.add_argument("--python", metavar="3.N", help="Python to test with (default: this one)")
    add_torch(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def add_plan(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "print what build would do and why", run_plan)
    add_base(parser)
    add_target(parser)
    add_source(parser)


def add_apply(verbs: Any, name: str) -> None:
    parser = verb(
        verbs, name, "write the patched tree as a git repository, one commit a patch", run_apply
    )
    add_base(parser)
    add_source(parser)
    parser.add_argument("--tree", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--until", metavar="PATCH", help="stop before this patch")
    parser.add_argument(
        "--upstream", choices=("vllm", "deepgemm"), default="vllm", help="which upstream's series"
    )


def add_bases(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "list the pinned releases, or pin one", run_bases)
    parser.add_argument("action", nargs="?", choices=("list", "add"), default="list")
    parser.add_argument("tags", nargs="*", metavar="vX.Y.Z", help="releases to pin")


def add_test(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "run the test suite", run_test)
    parser.add_argument(
        "--base",
        action="append",
        default=[],
        help="also build this base's wheel and test it; may be repeated; all for every base",
    )
    add_torch(parser)
    parser.add_argument("pytest", nargs="*", help="after --: what to pass to pytest")


def add_doctor(verbs: Any, name: str) -> None:
    verb(verbs, name, "say what this machine lacks for which verb", run_doctor)


def run_build(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    if options.dry_run:
        return run_plan(options, project)
    bases, base = greet(options, project)
    # After the first line: what is heavy is only imported where it is used.
    from recipe import pipeline
    from recipe.native import check_choice
    from recipe.report import summary

    check_choice(options.native)
    wanted = pipeline.Options(
        arch=options.arch,
        platform=options.platform,
        source=options.source,
        out=options.out.resolve(),
        offline=options.offline,
        test=not options.no_test,
        test_torch=options.test_torch,
        python=options.python,
    )
    built = pipeline.build(project, bases, base, wanted, Log())
    show(options, summary(built.report, built.wheel))
    return built.report


def greet(options: argparse.Namespace, project: Project) -> tuple[Bases, Base]:
    """Say at once what the command is about."""
    bases = load_bases(project.bases_file)
    base = bases.find(options.base)
    say(f"{base.tag} ({base.commit}), torch {base.torch}; cache {project.cache}")
    return bases, base


def run_plan(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe import plan
    from recipe.native import check_choice

    check_choice(options.native)
    made = plan.make_plan(
        project,
        bases,
        base,
        arch_list=options.arch,
        platform=options.platform,
        source=options.source,
        offline=options.offline,
    )
    show(options, plan.as_text(made))
    return plan.as_json(made)


def run_apply(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    bases, base = greet(options, project)
    from recipe import sources, tree
    from recipe.plan import resolve_series

    series = resolve_series(project, bases, base, options.upstream)
    find = sources.vllm_source if options.upstream == "vllm" else sources.deepgemm_source
    source = find(project, base, source=options.source, offline=options.offline)
    store = sources.store_of(project)
    patches = tree.until(series.patches, options.until)
    files = series.files if options.until is None else ()
    applied = tree.apply_all(store, source.commit, patches, files)
    folder = options.tree.resolve()
    tree.write_repository(store, applied, folder, f"base-{base.tag}")
    show(
        options,
        f"{len(patches)} patches and {len(files)} overlay files on {base.tag} in {options.tree}\n"
        f"  git -C {options.tree} log --oneline base-{base.tag}..",
    )
    return {
        "base": base.tag,
        "tree": str(options.tree),
        "commit": applied.head,
        "commits": [{"patch": path, "commit": commit} for path, commit in applied.commits],
    }


def run_bases(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe import catalog
    from recipe.errors import UsageError

    if options.action == "add":
        if not options.tags:
            raise UsageError("no release was named", next="python build.py bases add v0.33.0")
        bases = catalog.add(project, options.tags)
    else:
        bases = load_bases(project.bases_file)
    rows = catalog.table(bases)
    columns = list(rows[0])
    width = {c: max(len(c), *(len(row[c]) for row in rows)) for c in columns}
    lines = [
        "  ".join(f"{row[c]:{width[c]}}" for c in columns).rstrip()
        for row in [{c: c for c in columns}, *rows]
    ]
    show(options, "\n".join(lines))
    return {"bases": rows}


def run_test(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.suite import run_suite

    bases: Bases = load_bases(project.bases_file)
    names = options.base
    if names == ["all"]:
        names = [base.tag for base in bases.releases]
    chosen = [bases.find(name) for name in names]
    return run_suite(project, bases, chosen, torch=options.test_torch, pytest=options.pytest)


def run_doctor(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.doctor import examine

    findings = examine(project)
    lines = [f"{'ok  ' if f.good else 'LACKS'} {f.name}: {f.detail}" for f in findings]
    lines += [f"  next: {f.next}" for f in findings if not f.good]
    show(options, "\n".join(lines))
    bad = [f for f in findings if not f.good]
    return {
        "findings": [
            {"name": f.name, "good": f.good, "detail": f.detail, "needed_by": f.needed_by}
            for f in findings
        ],
        "exit_code": 8 if bad else 0,
    }


def show(options: argparse.Namespace, text: str) -> None:
    """The answer for a person: on stdout, unless the JSON document goes there."""
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)


VERBS: dict[str, Callable[[Any, str], None]] = {
    "build": add_build,
    "plan": add_plan,
    "apply": add_apply,
    "bases": add_bases,
    "test": add_test,
    "doctor": add_doctor,
}
