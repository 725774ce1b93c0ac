# SPDX-License-Identifier: Apache-2.0
"""The path of every model on every pinned release, with the FlashInfer that the release pins."""

from pathlib import Path

import pytest
from flashinfer_wheels import PINS, install
from vllm.sm12x.support import FlashInfer, Route
from vllm.sm12x.support.flashinfer import look_at, shapes_in
from vllm.sm12x.support.models import KINDS, Row, paths

TAKEN = {"T": Route.TRITON, "U": Route.UPSTREAM, "-": Route.NONE}
# One letter a model, in the order of KINDS: V4-Flash, V4-Pro, V4.1-Flash, V4-Flash with decode
# context parallelism, V3.2, GLM-5.2, the same with decode context parallelism, with 1024 picks a
# row, GLM-5.3, the same with decode context parallelism. All of it with speculation too.
EXPECTED = {
    **dict.fromkeys(["v0.20.0", "v0.20.1", "v0.20.2", "v0.21.0"], "TT--TT-T--"),
    **dict.fromkeys(["v0.22.0", "v0.22.1", "v0.23.0"], "TT--TT-T--"),  # no path of its own
    "v0.24.0": "TT--TT-T--",  # no kernels
    **dict.fromkeys(["v0.25.0", "v0.25.1"], "TT--TTTT--"),  # nor here
    **dict.fromkeys(["v0.26.0", "v0.27.0", "v0.27.1", "v0.28.0"], "TT--TTTT--"),  # they can hang
    "v0.29.0": "UU--UUUT--",
    "v0.30.0": "UUU-UUUTTT",
    **dict.fromkeys(["v0.31.0", "v0.32.0", "v0.33.0"], "UUU-UUUTUU"),
}
WHY = {
    ("v0.20.0", "DeepSeek V4-Flash"): "no sparse MLA for SM12x of its own",
    ("v0.24.0", "DeepSeek V4-Flash"): "FlashInfer 0.6.12 has no sparse MLA for SM12x",
    ("v0.25.1", "DeepSeek V3.2"): "FlashInfer 0.6.13 has no sparse MLA for SM12x",
    ("v0.26.0", "GLM-5.2"): "the SM12x kernels of FlashInfer 0.6.14 can hang",
    ("v0.28.0", "DeepSeek V3.2"): "the SM12x kernels of FlashInfer 0.6.16.post3 can hang",
    ("v0.29.0", "GLM-5.2 with 1024 picks a row"): "wants 2048 picks a row, the model has 1024",
    ("v0.29.0", "GLM-5.2 with decode context parallelism"): "nothing speaks against FlashInfer",
    ("v0.28.0", "GLM-5.2 with decode context parallelism"): "can hang",
    ("v0.24.0", "GLM-5.2 with decode context parallelism"): "sparse indexer doesn't pick",
    ("v0.33.0", "DeepSeek V4-Flash with decode context parallelism"): "sliding windows",
    ("v0.29.0", "GLM-5.3 (without RoPE)"): "no such model",
    ("v0.30.0", "GLM-5.3 (without RoPE)"): "wants a RoPE part",
    ("v0.33.0", "GLM-5.3 (without RoPE)"): "nothing speaks against FlashInfer",
}


def rows(tag: str, tmp_path: Path, forced: bool | None = None) -> tuple[Row, ...]:
    package = install(tmp_path, PINS[tag])
    return paths(
        vllm_version=tag, found=look_at([package]), shapes=shapes_in([package]),
        is_cuda=True, capability=(12, 1), forced=forced,
    )  # fmt: skip


@pytest.mark.parametrize("tag", PINS)
def test_every_model_takes_the_path_that_serves_it(tag: str, tmp_path: Path) -> None:
    found = rows(tag, tmp_path)
    assert [row.model for row in found[::2]] == [kind.name for kind in KINDS]
    for speculation in (False, True):
        taken = [row.choice.path for row in found if row.speculation is speculation]
        assert taken == [TAKEN[letter] for letter in EXPECTED[tag]]


@pytest.mark.parametrize(("tag", "model"), WHY)
def test_the_reason_is_what_was_found(tag: str, model: str, tmp_path: Path) -> None:
    whys = {row.choice.why for row in rows(tag, tmp_path) if row.model == model}
    assert all(WHY[tag, model] in why for why in whys), whys


def test_where_flashinfer_has_a_table_the_window_of_drafts_is_looked_up_in_it(
    tmp_path: Path,
) -> None:
    found = [row for row in rows("v0.28.0", tmp_path) if row.model == "DeepSeek V4-Flash"]
    whys = {row.speculation: row.choice.why for row in found}
    assert "can hang" in whys[False]
    assert (
        whys[True] == "FlashInfer 0.6.16.post3 has no V4 kernels for 64 heads and a window of 192"
    )


@pytest.mark.parametrize("capability", [(9, 0), (10, 0), (8, 9), None])
def test_elsewhere_everything_is_upstreams(capability: tuple[int, int] | None) -> None:
    found = paths(
        vllm_version="0.20.0", found=FlashInfer(version=None, kernels=False, hangs=False),
        shapes=None, is_cuda=True, capability=capability, forced=None,
    )  # fmt: skip
    assert {row.choice.path for row in found} == {Route.UPSTREAM}


def test_the_knob_moves_what_can_be_moved(tmp_path: Path) -> None:
    forced = rows("v0.33.0", tmp_path / "1", forced=True)
    taken = {row.choice.path for row in forced if "sliding windows" not in row.choice.why}
    assert taken == {Route.TRITON}
    forbidden = {r.model: r.choice.path for r in rows("v0.33.0", tmp_path / "2", forced=False)}
    assert forbidden["DeepSeek V3.2"] is Route.UPSTREAM
    assert forbidden["GLM-5.2 with 1024 picks a row"] is Route.NONE
