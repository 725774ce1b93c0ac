# SPDX-License-Identifier: Apache-2.0
"""The lines of `vllm serve` in the docs are right for the parser of the release they are for."""

import re
import shlex
from pathlib import Path
from typing import Any, get_args

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/howto/serve.md", "docs/howto/trouble.md")
RELEASE = "0.33.0"

# An image that makes a wheel has the tests and not the docs.
HERE = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the docs aren't here")
pytestmark = [HERE, pytest.mark.usefixtures("release")]


@pytest.fixture(scope="module")
def release(base: Version) -> None:
    if str(base) != RELEASE:
        pytest.skip(f"the docs are about v{RELEASE}")


def texts() -> dict[str, str]:
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}


def shown(program: str) -> list[list[str]]:
    """The commands of a program in the blocks of the pages, without the program's name."""
    found = []
    for text in texts().values():
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith(program + " "):
                    found.append(shlex.split(line, comments=True)[len(program.split()) :])
    return found


@pytest.fixture(scope="module")
def parser(release: None) -> Any:
    """What `vllm serve` makes of its words, without the server around it."""
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    top = FlexibleArgumentParser(prog="vllm")
    # The parser looks at its program's name, as the command line's does for this verb.
    make_arg_parser(top.add_subparsers(dest="subparser").add_parser("serve"))
    return top


def parse(parser: Any, words: list[str]) -> Any:
    """As the command does it: parsed, and then looked at as a whole."""
    from vllm.entrypoints.common.cli_args import validate_parsed_serve_args

    options = parser.parse_args(["serve", *words])
    validate_parsed_serve_args(options)
    return options


def test_every_line_is_taken_by_the_releases_own_parser(parser: Any) -> None:
    lines = shown("vllm serve")
    assert len(lines) >= 5
    for words in lines:
        options = parse(parser, words)
        assert options.model_tag == words[0]


def test_its_values_are_ones_that_the_release_knows(parser: Any) -> None:
    from vllm.config.cache import CacheDType
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    for words in shown("vllm serve"):
        options = parse(parser, words)
        assert options.kv_cache_dtype in get_args(CacheDType)
        if options.tool_call_parser:
            assert options.tool_call_parser in ToolParserManager.list_registered()
        if options.reasoning_parser:
            assert options.reasoning_parser in ReasoningParserManager.list_registered()


def test_every_option_in_running_text_is_one_of_the_parser(parser: Any) -> None:
    known = set(parser._subparsers._group_actions[0].choices["serve"]._option_string_actions)
    ours = {
        "--json",
        "--quick",
        "--no-deps",
        "--platform",
        "--native",
        "--arch",
        "--help",
        "--target",
        "--build-arg",
    }
    for name, text in texts().items():
        running = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        for code in re.findall(r"`([^`]+)`", running):
            if "build.py" in code:
                continue
            for option in re.findall(r"(?:^| )(--[a-z][a-z-]+)", code):
                assert option in known | ours, f"{name}: {option}"


def test_a_wrong_option_would_be_seen(parser: Any) -> None:
    for words in (["m", "--max-model-length", "1"], ["m", "--block-size", "x"]):
        with pytest.raises(SystemExit):
            parse(parser, words)
