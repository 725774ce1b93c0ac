# SPDX-License-Identifier: Apache-2.0
"""What is typed, and what an error says to whoever reads it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from recipe.cli import failure
from recipe.cli.main import parse
from recipe.compile.inner.given import parse_given
from recipe.compile.native.choice import parse_choice
from recipe.compile.toolchain.target import machine_of
from tests.fuzz.parser import Parser, text


def line(content: bytes, folder: Path) -> None:
    words = [text(word) for word in content.split(b"\n")]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        options = parse(words)
    if hasattr(options, "native"):
        parse_choice(options.native, {"_C", "_moe_C"})
        parse_given(options.sources, ["deepgemm"])


def platform(content: bytes, folder: Path) -> None:
    machine_of(text(content))


def report(content: bytes, folder: Path) -> None:
    words = [text(word) for word in content.split(b"\n")]
    error = ValueError(*words)
    shown = failure.report(error, words)
    failure.without_secrets(shown, {"A_TOKEN": words[0]})
    told = failure.unforeseen(error, words, [folder])
    assert told.text.encode("utf-8", "backslashreplace")


PARSERS = (
    Parser(
        name="command-line",
        read=line,
        refuses=(SystemExit,),
        made=lambda: [
            b"build\n--base\nv0.33.0\n--arch\n12.1\n--native\n_C,_moe_C\n--jobs\n3",
            b"index\n/x\na.whl\n--serve\n--port\n0",
            b"rebase\n--onto\nv0.34.0\n--json",
        ],
    ),
    Parser(name="platform", read=platform, made=lambda: [b"manylinux_2_28_aarch64"]),
    Parser(name="error-report", read=report, made=lambda: [b"https://u:p@host/\nbuild"]),
)
