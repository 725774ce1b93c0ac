# SPDX-License-Identifier: Apache-2.0
"""Which path is taken, for every release and device that domain facts tell apart."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vllm.sm12x.support import Cache, Choice, Route, choice, decide
from vllm.sm12x.support import choice as support

TRITON, UPSTREAM, NONE = Route.TRITON, Route.UPSTREAM, Route.NONE

# What is against upstream's path in the pinned releases: none in vLLM, none in FlashInfer, a hang.
RELEASES = {
    "0.20 - 0.23": {"refusal": support.NO_PATH},
    "0.24 - 0.25": {"refusal": "FlashInfer 0.6.13 has no sparse MLA for SM12x"},
    "0.26 - 0.28": {"danger": "the SM12x kernels of FlashInfer 0.6.14 can hang"},
    "0.29 and on": {},
}


def choose(**facts: Any) -> Choice:
    """A choice on GB10 with the newest release, but for what is given."""
    default: dict[str, Any] = {
        "is_cuda": True,
        "capability": (12, 1),
        "forced": None,
        "refusal": "",
        "danger": "",
        "lacks": "",
    }
    return decide(**(default | facts))


@pytest.mark.parametrize("capability", [(12, 0), (12, 1)])
@pytest.mark.parametrize(
    ("release", "automatic", "forbidden", "because"),
    [
        ("0.20 - 0.23", TRITON, NONE, "no sparse MLA for SM12x of its own"),
        ("0.24 - 0.25", TRITON, NONE, "0.6.13 has no sparse MLA for SM12x"),
        ("0.26 - 0.28", TRITON, UPSTREAM, "hang"),
        ("0.29 and on", UPSTREAM, UPSTREAM, "nothing speaks against FlashInfer"),
    ],
)
def test_each_release_has_a_path_on_sm12x_and_the_knob_moves_it(
    release: str,
    automatic: Route,
    forbidden: Route,
    because: str,
    capability: tuple[int, int],
) -> None:
    facts = RELEASES[release] | {"capability": capability}
    choice = choose(**facts)
    assert choice.path is automatic
    assert because in choice.why and not choice.unexpected
    forced = choose(**facts, forced=True)
    assert (forced.path, forced.why) == (TRITON, f"{support.KNOB} is 1")
    off = choose(**facts, forced=False)
    assert off.path is forbidden and f"{support.KNOB} is 0" in off.why
    assert off.unexpected == (forbidden is NONE)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("lacks", ["", "it has no RoPE"])
@pytest.mark.parametrize(
    ("device", "because"),
    [
        ({"capability": (9, 0)}, "9.0"),
        ({"capability": (10, 0)}, "10.0"),
        ({"capability": (10, 3)}, "10.3"),
        ({"capability": (8, 9)}, "8.9"),
        ({"capability": (11, 0)}, "11.0"),
        ({"capability": None}, "unknown"),
        ({"is_cuda": False}, "isn't CUDA"),  # ROCm has capabilities as well
        ({"is_cuda": False, "capability": None}, "isn't CUDA"),
    ],
)
def test_other_devices_are_upstreams_whatever_is_asked_for(
    device: dict[str, Any], because: str, lacks: str, release: str
) -> None:
    for forced in (None, False, True):
        facts = RELEASES[release] | device | {"lacks": lacks}
        choice = choose(**facts, forced=forced)
        assert choice.path is UPSTREAM and not choice.triton
        assert because in choice.why
        assert choice.unexpected == (forced is True) == ("no effect" in choice.why)


@pytest.mark.parametrize(
    ("refusal", "lacks", "path"),
    [
        ("", "", UPSTREAM),
        ("it has none", "", TRITON),
        ("", "ours neither", UPSTREAM),
        ("it has none", "ours neither", NONE),
    ],
)
def test_what_flashinfer_refuses_goes_to_triton_if_that_lacks_nothing(
    refusal: str, lacks: str, path: Route
) -> None:
    choice = choose(refusal=refusal, lacks=lacks)
    assert choice.path is path
    assert refusal in choice.why and lacks in choice.why
    assert choice.unexpected == (path is NONE)


def test_a_forced_path_that_lacks_something_is_worth_a_warning() -> None:
    choice = choose(lacks="no RoPE of 32", forced=True)
    assert choice.path is UPSTREAM and choice.unexpected


@pytest.mark.parametrize(
    ("model", "because"),
    [
        ({"layout": Cache.V32, "rope_dim": 64}, ""),
        ({"layout": Cache.V32, "rope_dim": 0}, ""),
        ({"layout": Cache.V4, "rope_dim": 64}, ""),
        ({"layout": Cache.V4, "rope_dim": 0}, "no RoPE of 0 for V4"),
        ({"layout": Cache.V32, "rope_dim": 32}, "no RoPE of 32 for V3.2"),
    ],
)
def test_the_triton_kernels_are_written_for_these_rope_widths(
    model: dict[str, Any], because: str
) -> None:
    found = choice.triton_lacks(**model)
    assert because in found and bool(found) == bool(because)


@pytest.mark.parametrize(
    "version", ["0.20.2", "0.24.0", "0.25.0", "0.28.0", "0.33.0", "0.34.0", "dev"]
)
def test_ranks_share_contexts_from_the_indexer_on_that_picks_from_them(version: str) -> None:
    found = choice.sharing_refused(version, layout=Cache.V32)
    assert ("indexer" in found) == bool(found) == (version in ("0.20.2", "0.24.0"))


@pytest.mark.parametrize("version", ["0.20.2", "0.25.0", "0.33.0", "0.34.0", "dev"])
def test_v4s_windows_are_shared_by_no_release_that_was_looked_at(version: str) -> None:
    found = choice.sharing_refused(version, layout=Cache.V4)
    assert ("sliding windows" in found) == bool(found) == (version not in ("0.34.0", "dev"))


def test_what_cannot_be_shared_is_refused_with_what_to_type() -> None:
    why = choice.sharing_refused("0.33.0", layout=Cache.V4)
    said = str(choice.cannot_share(4, why))
    assert said.startswith(f"--decode-context-parallel-size 4 can't be served on SM12x: {why}. ")
    assert said.endswith(" Type --decode-context-parallel-size 1.")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("version", "model", "because"),
    [
        ("0.23.0", {}, "of its own"),
        ("0.24.0", {}, ""),
        ("0.33.0+sm12x.1", {}, ""),
        ("0.33.0", {"index_topk": 1024}, "2048 picks a row, the model has 1024"),
        ("0.24.0", {"index_topk": 512}, "2048 picks a row, the model has 512"),
        ("0.33.0", {"index_topk": 512, "layout": Cache.V4}, ""),
        ("0.30.0", {"rope_dim": 0}, "wants a RoPE part"),
        ("0.31.0", {"rope_dim": 0}, ""),
        ("0.33.0", {"rope_dim": 0}, ""),
        # Newer than those looked at, or not to be told: nothing is held against it.
        ("0.34.0", {"index_topk": 1024}, ""),
        ("1.0", {"index_topk": 1024}, ""),
        ("dev", {"index_topk": 1024, "rope_dim": 0}, ""),
    ],
)
def test_what_a_vllm_refuses_is_known_of_those_looked_at(
    version: str, model: dict[str, Any], because: str
) -> None:
    shape: dict[str, Any] = {"layout": Cache.V32, "index_topk": 2048, "rope_dim": 64} | model
    found = support.vllm_refuses(version, **shape)
    assert because in found and bool(found) == bool(because)


@pytest.mark.parametrize(
    ("version", "calls"),
    [
        ("0.20.2", False),
        ("0.23.0+sm12x.1", False),
        ("0.24.0", True),
        ("v0.25.1", True),
        ("0.33.0+sm12x.12", True),
        ("1.0", True),
        ("unknown", False),
    ],
)
def test_vllm_calls_flashinfer_from_024_on(version: str, calls: bool) -> None:
    assert support.calls_flashinfer(version) is calls


def test_a_choice_is_said_once_in_one_line(
    monkeypatch: pytest.MonkeyPatch, log_of: Callable[[str], list[logging.LogRecord]]
) -> None:
    monkeypatch.setattr(choice, "_said", set())
    log = logging.getLogger("vllm.sm12x.test_support")
    records = log_of(log.name)
    for _ in range(3):
        support.describe_once(choose(forced=True), log)
    support.describe_once(choose(is_cuda=False, forced=True), log)
    support.describe_once(choose(is_cuda=False, forced=True), log)
    first, second = records
    assert first.getMessage() == "Sparse MLA path: Triton, because VLLM_TRITON_MLA_SPARSE is 1."
    assert first.levelno == logging.INFO
    assert second.levelno == logging.WARNING
    assert "upstream's" in second.getMessage() and "no effect" in second.getMessage()
    assert not any("\n" in record.getMessage() for record in records)


def test_the_module_needs_neither_torch_nor_vllm() -> None:
    root = Path(support.__file__).parents[3]
    code = (
        "import sys, types\n"
        "package = types.ModuleType('vllm')\n"
        f"package.__path__ = [{str(root / 'vllm')!r}]\n"
        "sys.modules['vllm'] = package\n"
        "import vllm.sm12x.support\n"
        "print(*[n for n in sys.modules if n.split('.')[0] in ('torch', 'triton', 'flashinfer')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
