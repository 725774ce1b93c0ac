# SPDX-License-Identifier: Apache-2.0
"""The command line."""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .asking.phases import Plan
from .asking.schedule import LEAST
from .judging.level import Compare
from .server.discover import Endpoint

REQUESTS = 200
DESCRIPTION = """\
Ask an OpenAI-compatible server many things at once, and say whether its answers stay right.

Each prompt is asked alone first. Then many conversations go on at once, with long and short
prompts, shared and diverging prefixes, long answers and cancelled ones, and each answer is held
against the one given alone: exactly where the server repeats itself, up to near choices where it
gives log probabilities, and else by codes, repetition and entropy. Latency and throughput come
beside it. Nothing but HTTP is needed on this machine.
"""
EPILOG = """\
examples:
  python -m vllm.sm12x.soak http://localhost:8000
  python -m vllm.sm12x.soak http://spark:8000 --concurrency 16 --requests 600 --html soak.html
  python -m vllm.sm12x.soak http://localhost:8000 --minutes 240 --json >soak.json
  python -m vllm.sm12x.soak http://localhost:8000 --context 32768 --depths 0.1,0.5,0.9
  python -m vllm.sm12x.soak http://localhost:8000 \\
      --extra-body '{"chat_template_kwargs": {"enable_thinking": false}}'

exit codes: 0 no wrong answer; 2 it can't be run as asked (key, model, context, not such a server);
7 answers went wrong or didn't come; 8 nothing answers at the address; 130 interrupted.
The key is read from OPENAI_API_KEY, or from the variable that --api-key-env names.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was typed."""

    url: str
    model: str | None
    endpoint: Endpoint | None
    context: int | None
    compare: Compare | None
    key_name: str
    extra: dict[str, Any]
    verify: bool
    json: bool
    html: Path | None
    quiet: bool
    plan: Plan


def read(arguments: Sequence[str] | None) -> Options:
    """Read the command line; a wrong one ends the program with code 2."""
    parser = _parser()
    typed = parser.parse_args(arguments)
    requests = typed.requests
    if requests is None and typed.minutes is None:
        requests = REQUESTS
    if typed.html is not None and not typed.html.resolve().parent.is_dir():
        # Found out now, not after an hour.
        parser.error(f"--html {typed.html}: there is no folder {typed.html.resolve().parent}")
    plan = Plan(
        requests=requests,
        minutes=typed.minutes,
        concurrency=typed.concurrency,
        depths=typed.depths,
        answer_tokens=typed.answer_tokens,
        count_tokens=typed.count_tokens,
        cancelled=typed.cancelled,
        first_s=typed.first_token,
        stall_s=typed.stall,
        seed=typed.seed,
    )
    return Options(
        url=typed.url,
        model=typed.model,
        endpoint=None if typed.endpoint == "auto" else Endpoint(typed.endpoint),
        context=typed.context,
        compare=None if typed.compare == "auto" else Compare(typed.compare),
        key_name=typed.api_key_env,
        extra=typed.extra_body,
        verify=not typed.insecure,
        json=typed.json,
        html=typed.html,
        quiet=typed.quiet,
        plan=plan,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vllm.sm12x.soak", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("url", metavar="URL", help="address of the server, with or without /v1")
    add("--model", metavar="NAME", help="model to ask (the only one that the server has)")
    add("--endpoint", choices=("auto", *(e.value for e in Endpoint)), default="auto",
        help="chat, or completions for models without a chat template (auto)")  # fmt: skip
    add("--context", metavar="TOKENS", type=_whole,
        help="longest prompt and answer together (what /v1/models says)")  # fmt: skip
    amount = parser.add_argument_group("how much")
    add = amount.add_argument
    add("--concurrency", metavar="N", type=_whole, default=8, help="conversations at once (8)")
    add("--requests", metavar="N", type=_requests,
        help=f"requests in all ({REQUESTS}, or no limit with --minutes)")  # fmt: skip
    add("--minutes", metavar="M", type=_positive, help="end after so many minutes (no limit)")
    add("--depths", metavar="D,D", type=_depths, default=(0.1, 0.5, 0.9),
        help="where in the notes codes stand, 0 to 1 (0.1,0.5,0.9)")  # fmt: skip
    add("--answer-tokens", metavar="N", type=_whole, default=64,
        help="length of short answers; more for a model that thinks (64)")  # fmt: skip
    add("--count-tokens", metavar="N", type=_whole, default=384,
        help="length of long answers (384)")  # fmt: skip
    add("--cancelled", metavar="SHARE", type=_fraction, default=0.15,
        help="share of the long answers under load that are cancelled (0.15)")  # fmt: skip
    add("--seed", metavar="N", type=int, default=1, help="of the conversations (1)")
    asking = parser.add_argument_group("how to ask and to compare")
    add = asking.add_argument
    add("--compare", choices=("auto", *(c.value for c in Compare)), default="auto",
        help="hold answers to this instead of what is measured (auto)")  # fmt: skip
    add("--first-token", metavar="S", type=_positive, default=900.0,
        help="seconds until an answer given alone begins (900)")  # fmt: skip
    add("--stall", metavar="S", type=_positive, default=60.0,
        help="seconds without text that count as a stall (60)")  # fmt: skip
    add("--api-key-env", metavar="NAME", default="OPENAI_API_KEY",
        help="variable that has the key (OPENAI_API_KEY)")  # fmt: skip
    add("--extra-body", metavar="JSON", type=_object, default={},
        help="added to the body of every request")  # fmt: skip
    add("--insecure", action="store_true", help="take any TLS certificate")
    out = parser.add_argument_group("what comes out")
    out.add_argument("--json", action="store_true", help="one JSON document on stdout instead")
    out.add_argument("--html", metavar="FILE", type=Path, help="write a web page, too")
    out.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _requests(text: str) -> int:
    number = _whole(text)
    if number < LEAST:
        raise argparse.ArgumentTypeError(f"{number} can't show anything; {LEAST} or more can")
    return number


def _real(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _positive(text: str) -> float:
    value = _real(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _fraction(text: str) -> float:
    value = _real(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def _depths(text: str) -> tuple[float, ...]:
    return tuple(_fraction(part) for part in text.split(","))


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("not a JSON object, such as '{\"top_k\": 1}'")
    return value
