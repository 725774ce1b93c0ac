# SPDX-License-Identifier: Apache-2.0
"""The soak finds each fault of a server in 200 requests, and none in a server without one."""

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import soak_models
import soak_server
from soak_server import Fault, Settings
from vllm.sm12x.soak import cli

SHORT = ("--answer-tokens", "24", "--count-tokens", "64", "--quiet", "--json")
# Only where a stall is meant: a busy machine is none.
IMPATIENT = ("--stall", "1.5")
WAYS = ("chat", "completions")


def soak(
    capsys: pytest.CaptureFixture[str], url: str, *arguments: str
) -> tuple[int, dict[str, Any]]:
    code = cli.main([url, *SHORT, *arguments])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else {}


def soak_reader(
    capsys: pytest.CaptureFixture[str], settings: Settings, *arguments: str, stale: bool = False
) -> tuple[int, dict[str, Any]]:
    with soak_server.serving(soak_models.Reader(stale=stale), settings) as server:
        return soak(capsys, server.url, *arguments)


def signs(found: dict[str, Any]) -> set[str]:
    return {finding["sign"] for finding in found["findings"]}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("logprobs", [True, False])
def test_a_right_server_that_repeats_itself_is_held_to_its_words(
    capsys: pytest.CaptureFixture[str], way: str, logprobs: bool
) -> None:
    code, found = soak_reader(capsys, Settings(logprobs=logprobs), "--endpoint", way)
    assert code == 0
    assert (found["verdict"], found["findings"]) == ("right", [])
    assert found["level"]["compare"] == found["level"]["alone"] == "exact"
    assert found["checked"] == ["count", "needle"]
    assert found["requests"] == 200
    assert found["compared"] > 100


@pytest.mark.parametrize("logprobs", [True, False])
def test_a_right_server_that_samples_is_held_to_measures(
    capsys: pytest.CaptureFixture[str], logprobs: bool
) -> None:
    code, found = soak_reader(capsys, Settings(temperature=0.7, logprobs=logprobs))
    assert (code, found["alarms"]) == (0, [])
    assert found["level"]["compare"] == found["level"]["alone"] == "measures"


@pytest.mark.parametrize(("temperature", "logprobs"), [(0.0, True), (0.7, False)])
@pytest.mark.parametrize(
    ("fault", "after", "share", "stale", "expected"),
    [
        (Fault.CROSSED, 0, 0.2, False, {"foreign code"}),
        (Fault.NONE, 0, 1.0, True, {"foreign code"}),
        (Fault.STALL, 120, 0.1, False, {"stalled"}),
        (Fault.FAILS, 120, 0.1, False, {"error"}),
        (Fault.CUT, 120, 0.1, False, {"dropped"}),
    ],
    ids=["crossed", "stale prefix", "stall", "500", "cut"],
)
def test_a_fault_is_found_by_its_sign(
    capsys: pytest.CaptureFixture[str],
    temperature: float,
    logprobs: bool,
    fault: Fault,
    after: int,
    share: float,
    stale: bool,
    expected: set[str],
) -> None:
    settings = Settings(
        fault=fault, after=after, share=share, temperature=temperature, logprobs=logprobs
    )
    patience = IMPATIENT if fault is Fault.STALL else ()
    code, found = soak_reader(capsys, settings, *patience, stale=stale)
    assert code == 7
    assert found["requests"] <= 200
    assert expected <= signs(found)


@pytest.mark.parametrize(
    ("after", "temperature", "logprobs"),
    [(30, 0.0, True), (30, 0.0, False), (30, 0.7, False), (100, 0.0, False), (100, 0.7, True)],
)
def test_garbling_after_some_requests_is_found(
    capsys: pytest.CaptureFixture[str], after: int, temperature: float, logprobs: bool
) -> None:
    settings = Settings(
        fault=Fault.GARBLED, after=after, temperature=temperature, logprobs=logprobs
    )
    code, found = soak_reader(capsys, settings)
    assert code == 7
    if temperature:
        assert any(rate["alarm"] for rate in found["rates"])
    else:
        assert "differs" in signs(found)
    wrong = [finding["request"] for finding in found["findings"]]
    # Requests before the run count for the server, and the first ones are right.
    assert not wrong or min(wrong) > after - 12


def test_a_server_that_stops_for_good_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = soak_reader(capsys, Settings(fault=Fault.STALL, after=120), *IMPATIENT)
    assert code == 7
    assert found["hung"]
    assert found["requests"] < 160


@pytest.fixture(scope="module")
def llama(modeling_of: Callable[[str], ModuleType]) -> None:
    torch = pytest.importorskip("torch")
    modeling_of("llama")
    # The server's threads would wait for each other's.
    torch.set_num_threads(1)


TINY = ("--answer-tokens", "6", "--count-tokens", "12", "--requests", "64", "--concurrency", "4")


@pytest.mark.usefixtures("llama")
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(), 0),
        (Settings(logprobs=False, temperature=0.7), 0),
        (Settings(fault=Fault.CROSSED, share=0.3), 7),
        (Settings(fault=Fault.GARBLED, after=40, logprobs=False), 7),
    ],
    ids=["right", "samples", "crossed", "garbled"],
)
def test_a_llama_of_random_weights_is_held_to_its_own_words(
    capsys: pytest.CaptureFixture[str], settings: Settings, expected: int
) -> None:
    with soak_server.serving(soak_models.Tiny(context=1280), settings) as server:
        code, found = soak(capsys, server.url, *TINY)
    assert code == expected
    assert found["checked"] == []
    assert found["verdict"] == (
        "wrong" if expected else "unjudged" if settings.temperature else "right"
    )


@pytest.mark.usefixtures("llama")
def test_keys_and_values_of_another_prefix_are_found_by_what_a_cold_cache_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with soak_server.serving(soak_models.Tiny(context=1280, stale=True), Settings()) as server:
        code, found = soak(capsys, server.url, *TINY)
    assert code == 7
    assert signs(found) == {"differs"}
