# SPDX-License-Identifier: Apache-2.0
"""The command line: help, JSON on stdout and nothing else there, exit codes, no surprises."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.cli.verbs import VERBS
from tests.recipe.world import World


@pytest.mark.parametrize("name", ["", *VERBS])
def test_every_verb_has_help(world: World, name: str) -> None:
    done = world.good(*([name] if name else []), "--help")
    assert done.out.startswith("usage: build.py")
    assert done.err == ""
    assert not world.cache.exists()


def everything(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "args",
    [
        ("plan",),
        ("build", "--dry-run"),
        ("build", "--no-test"),
        ("apply", "--tree", "tree"),
        ("new", "topic", "--tree", "tree"),
        ("refresh",),
        ("bisect", "--test", "true"),
        ("bases",),
        ("bases", "list"),
        ("doctor",),
    ],
)
def test_json_is_one_document_and_stdout_holds_nothing_else(
    world: World, args: tuple[str, ...]
) -> None:
    done = world.run(*args, "--json")
    assert done.document["schema"] == 1
    assert "Traceback" not in done.err
    if args[0] != "doctor":
        assert done.status == 0


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (("plan", "--base", "v8.0.0"), 2),
        (("plan", "--arch", "1"), 2),
        (("plan", "--platform", "riscv64"), 2),
        (("build", "--native", "_nope"), 2),
        (("build", "--sources", "nope=/tmp"), 2),
        (("plan", "--offline"), 3),
        (("apply", "--tree", "/", "--offline"), 3),
        (("new", "No", "--tree", "tree"), 2),
        (("refresh", "lost"), 2),
        (("refresh", "--tree", "lost"), 2),
        (("bisect", "--test", "true", "--offline"), 3),
        (("bases", "add"), 2),
        (("bases", "add", "9.1"), 2),
        (("bases", "add", "v9.9.9"), 3),
    ],
)
def test_an_error_is_a_document_too_with_its_code_and_what_to_type(
    world: World, args: tuple[str, ...], status: int
) -> None:
    before = everything(world.root)

    done = world.run(*args, "--json")

    assert done.status == status, done.err
    error = done.document["error"]
    assert error["exit_code"] == status
    assert error["what"]
    assert error["next"] == done.next
    assert "Traceback" not in done.err
    assert everything(world.root) == before
    plain = world.run(*args)
    assert plain.status == status
    assert plain.out == ""


@pytest.mark.parametrize("args", [("biuld",), ("plna", "--base", "v9.1.0"), ("v9.1.0",)])
def test_a_misspelled_verb_starts_nothing(world: World, args: tuple[str, ...]) -> None:
    done = world.run(*args)
    assert done.status == 2
    assert f"no such VERB: {args[0]}" in done.err
    assert "build" in done.err
    assert world.index.asked == []
    assert not world.cache.exists()
    assert not world.out.exists()


@pytest.mark.parametrize("args", [("--bas", "v9.1.0"), ("plan", "--bas", "v9.1.0"), ("--nope",)])
def test_an_option_is_never_guessed(world: World, args: tuple[str, ...]) -> None:
    done = world.run(*args)
    assert done.status == 2
    assert "has no option" in done.err
    assert world.index.asked == []


def test_options_without_a_verb_are_those_of_build(world: World) -> None:
    done = world.good("--no-test", "--out", str(world.out))
    assert world.wheel().name in done.out


def test_alone_it_says_how_it_is_used_and_does_nothing(world: World) -> None:
    done = world.run()
    assert done.status == 2
    assert done.out.startswith("usage: build.py")
    assert world.index.asked == []
    assert not world.cache.exists()


def test_the_version_names_recipe_releases_and_python(world: World) -> None:
    done = world.good("--version")
    assert re.fullmatch(r"vllm-sm12x \d\S* .*vLLM up to v9\.1\.0, Python 3\.\S+\n", done.out)
    assert not world.cache.exists()


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (("plna", "--base", "v9.1.0"), "plan --base v9.1.0"),
        (("plan", "--bsae", "v9.1.0", "--json"), "plan --base v9.1.0 --json"),
        (("plan", "--bsae=v9.1.0"), "plan --base=v9.1.0"),
        (("plan", "--base", "v9.l.0"), "plan --base v9.1.0"),
        (("--base", "latset"), "--base latest"),
        (("bases", "ad", "v9.2.0"), "bases add v9.2.0"),
        (("plan", "--compiler-cache", "scache"), "plan --compiler-cache sccache"),
        (("plan", "--base", "v9.1.0", "--arch", "sm_121a"), "plan --base v9.1.0 --arch 12.1a"),
        (("plan", "--arch=120;compute_121"), "plan '--arch=12.0;12.1'"),
        (("plan", "--arch", "12.1(2.0)"), "plan --arch 12.1"),
        (("plan", "--arch", "121-real 12.0a+ptx"), "plan --arch '12.1;12.0a+PTX'"),
    ],
)
def test_what_was_meant_can_be_pasted_with_all_the_rest(
    world: World, args: tuple[str, ...], meant: str
) -> None:
    done = world.run(*args)
    assert done.status == 2
    assert "did you mean" in done.err
    assert done.next == f"python build.py {meant}"
    assert world.index.asked == []
    again = world.run(*shlex.split(done.next)[2:], "--offline", "--help")
    assert again.status == 0


@pytest.mark.parametrize("args", [("plan", "--zzz"), ("plan", "v9.1.0"), ("plan", "--arch", "1")])
def test_where_nothing_is_close_nothing_is_offered(world: World, args: tuple[str, ...]) -> None:
    done = world.run(*args)
    assert done.status == 2
    assert "did you mean" not in done.err


@pytest.mark.parametrize(
    "args", [("plan", "--bsae"), ("plan", "--jobs", "none"), ("paln",), ("plan", "--base")]
)
def test_a_usage_error_is_a_document_too(world: World, args: tuple[str, ...]) -> None:
    done = world.run(*args, "--json")
    assert done.status == 2
    assert done.document["error"]["exit_code"] == 2
    assert done.document["error"]["next"] == done.next


def test_what_upstreams_build_reads_and_ours_doesnt_is_said(world: World) -> None:
    env = {"TORCH_CUDA_ARCH_LIST": "9.0", "MAX_JOBS": "3"}
    done = world.good("plan", env=env)
    assert "TORCH_CUDA_ARCH_LIST in the environment isn't read here; --arch says it" in done.err
    assert "MAX_JOBS in the environment isn't read here; --jobs says it" in done.err
    assert "note:" not in world.good("plan").err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--arch", "12.1", "--platform", "x86_64"), True),
        (("--arch", "12.1f", "--platform", "manylinux_2_28_x86_64"), True),
        (("--arch", "12.1", "--platform", "aarch64"), False),
        (("--arch", "12.0;12.1", "--platform", "x86_64"), False),
    ],
)
def test_a_wheel_that_no_spark_takes_is_named(
    world: World, args: tuple[str, ...], said: bool
) -> None:
    assert ("is aarch64 and this is a wheel for" in world.run("plan", *args).err) is said


@pytest.mark.parametrize("name", VERBS)
def test_help_names_no_default_that_is_none(world: World, name: str) -> None:
    assert not re.search(r"default: (None|False|\[\])", world.good(name, "--help").out)


def test_a_dry_run_writes_no_wheel_and_fetches_none(world: World) -> None:
    done = world.good("build", "--dry-run", "--out", str(world.out))
    assert "9.1.0+sm12x.4" in done.out
    assert not world.out.exists()
    assert not list(world.cache.rglob("*.whl*"))


def test_the_native_choice_is_refused_before_anything_is_fetched(world: World) -> None:
    done = world.build("--native", "_C,_moe")
    assert done.status == 2
    assert "no such component: _moe" in done.err
    assert done.next == "python build.py build --native auto ...   # or none, all"
    assert world.index.asked == []
    assert world.build("--native", "none").status == 0


def test_progress_goes_to_stderr(world: World) -> None:
    done = world.build()
    assert done.status == 0
    assert "Assembling the wheel" in done.err
    assert "Assembling the wheel" not in done.out
    assert "NOT TESTED: --no-test was given" in done.out
    assert "\x1b" not in done.err


def test_it_runs_with_an_ascii_locale(world: World) -> None:
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert world.build(env=env).status == 0


def test_it_runs_from_another_folder(world: World, tmp_path: Path) -> None:
    done = world.run("build", "--no-test", "--out", "made", cwd=tmp_path)
    assert done.status == 0, done.err
    assert list((tmp_path / "made").glob("*.whl"))


def test_it_runs_on_a_terminal(world: World) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "recipe", "plan"],
        cwd=world.root,
        env=world.environment(),
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    said = b""
    while True:
        try:
            block = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        said += block
    os.close(parent)
    assert process.wait() == 0, said
    assert b"9.1.0+sm12x.4" in said


def test_a_closed_stdin_is_no_problem(world: World) -> None:
    command = f"exec {sys.executable} -m recipe plan <&-"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=world.root,
        env=world.environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
