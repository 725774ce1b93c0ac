# SPDX-License-Identifier: Apache-2.0
"""The paths that are told, against each release's own checks on the FlashInfer that it pins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe.bases import flashinfer as asked
from recipe.bases.releases import Bases
from recipe.bases.sources import from_sdists, store_of
from recipe.ground.project import open_project
from tests.integration.upstream_checks import Release
from tests.overlay.flashinfer_wheels import PINS, WHEELS, install
from tests.recipe.world import CHECKOUT

# What vLLM's registry calls them.
ARCHITECTURES = {
    "DeepSeek V4-Flash": "DeepseekV4ForCausalLM",
    "DeepSeek V4-Pro": "DeepseekV4ForCausalLM",
    "DeepSeek V4.1-Flash": "DeepseekV41ForCausalLM",
    "DeepSeek V3.2": "DeepseekV32ForCausalLM",
    "GLM-5.2": "GlmMoeDsaForCausalLM",
    "GLM-5.3 (without RoPE)": "Glm5NextForCausalLM",
    "GLM-5.3": "Glm5NextForCausalLM",
}
# flashinfer-ai #4732 is in this one; nothing in a wheel says so.
HANGS_BELOW = (0, 6, 18)


@pytest.fixture(scope="session")
def sources(bases: Bases) -> Callable[[str], Release]:
    project = open_project()
    commits = from_sdists(project, bases.releases, offline=False)
    store = store_of(project)

    def release(tag: str) -> Release:
        def read(path: str) -> str | None:
            there = store.has_path(commits[tag], path)
            return store.read(commits[tag], path).decode() if there else None

        return Release(read)

    return release


@pytest.fixture
def package(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The layout of the FlashInfer that a release pins, to be imported by that release's code."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield install(tmp_path, PINS[request.getfixturevalue("tag")], imports=True)
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("flashinfer", "vllm"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def overlay() -> Iterator[Any]:
    """The overlay's models, imported as they are without a vLLM."""
    sys.path.insert(0, str(CHECKOUT / "overlay" / "vllm"))
    before = set(sys.modules)
    from vllm.sm12x.support import flashinfer, models

    yield models, flashinfer
    sys.path.remove(str(CHECKOUT / "overlay" / "vllm"))
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "vllm":
            del sys.modules[name]


def serves(release: Release, tag: str, kind: Any, *, speculation: bool) -> bool:
    """Whether upstream's path can serve a model, by its own code and FlashInfer's files."""
    if kind.dcp and not shared(release, kind):
        return False
    facts = WHEELS[PINS[tag]]
    kernels = any("/csrc/sparse_mla_sm120" in name for name in facts["files"])
    numbers = tuple(map(int, PINS[tag].split(".post")[0].split(".")))
    if not kernels or numbers < HANGS_BELOW:
        return False
    if kind.layout.value == "V4":
        windows = (128, 192) if speculation else (128,)
        return all(release.serves_v4(kind.heads, window) for window in windows)
    if kind.rope_dim == 0 and not (
        "GLM53_NOPE" in facts["shapes"] and release.writes_without_rope()
    ):
        return False
    return not release.objections(index_topk=kind.index_topk, rope_dim=kind.rope_dim)


def shared(release: Release, kind: Any) -> bool:
    """Whether ranks can share a model's contexts, which takes more than an LSE of the kernels."""
    return release.shares_contexts() and (kind.layout.value != "V4" or release.shares_windows())


@pytest.mark.parametrize("tag", PINS)
def test_the_overlay_tells_what_upstreams_own_code_says(
    tag: str, sources: Callable[[str], Release], overlay: Any, package: Path
) -> None:
    models, flashinfer = overlay
    release = sources(tag)
    rows = models.paths(
        vllm_version=tag,
        found=flashinfer.look_at([package]),
        shapes=flashinfer.shapes_in([package]),
        is_cuda=True,
        capability=(12, 1),
        forced=None,
    )
    kinds = {kind.name: kind for kind in models.KINDS}
    for row in rows:
        kind = kinds[row.model]
        architecture = ARCHITECTURES[row.model.partition(" with ")[0]]
        if not release.has_model(architecture):
            expected = "none"
        elif serves(release, tag, kind, speculation=row.speculation):
            expected = "upstream"
        else:
            expected = "none" if kind.dcp and not shared(release, kind) else "triton"
        assert row.choice.path.value == expected, row


# What the overlay's implementations call, and read of upstream's, where ranks share contexts.
CONVERTS = {
    "req_id", "block_table", "token_indices", "dcp_size", "dcp_rank", "cp_kv_cache_interleave_size",
    "BLOCK_SIZE", "NUM_TOPK_TOKENS", "BLOCK_N", "return_valid_counts",
}  # fmt: skip
READS = ("self.kv_scale_format", "self._workspace_buffer", "_get_workspace_buffer", "self.scale,")


@pytest.mark.parametrize("tag", PINS)
def test_releases_that_share_contexts_have_what_the_overlay_calls(
    tag: str, sources: Callable[[str], Release]
) -> None:
    release = sources(tag)
    found = release.arguments(
        "vllm/v1/attention/backends/mla/sparse_utils.py", "triton_filter_and_convert_dcp_index"
    )
    assert bool(found) == release.shares_contexts()
    if not found:
        return
    assert found >= CONVERTS
    theirs = release.read("vllm/v1/attention/backends/mla/flashinfer_mla_sparse_sm120.py") or ""
    assert all(name in theirs for name in READS)
    rows = "flat_kv_row_view" in (
        release.read("vllm/v1/attention/backends/mla/sparse_utils.py") or ""
    )
    assert rows == ("BLOCK_STRIDE_ROWS" in found)


@pytest.mark.parametrize("tag", ["v0.20.2", "v0.29.0", "v0.33.0"])
def test_pinning_a_release_tells_the_same(tag: str, sources: Callable[[str], Release]) -> None:
    """It reads the wheel from the index, and the overlay's doctor answers in its own process."""
    told = asked.tell(CHECKOUT / "overlay" / "vllm", tag[1:], lambda p: sources(tag).read(p) or "")
    assert told.flashinfer == PINS[tag]
    absent = f"no file of it is named {asked.KERNELS}: look for its kernels by hand"
    assert told.problem == ("" if tag > "v0.25" else absent)
    page = (CHECKOUT / "docs" / "paths.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {tag} ")]
    cells = [cell.strip().partition(" ")[0] for cell in line.split("|")[3:-1]]
    assert [row["path"] for row in told.paths if not row["speculation"]] == cells


def test_every_pinned_release_is_on_the_page(bases: Bases) -> None:
    assert list(PINS) == [base.tag for base in bases.releases]


def test_the_page_is_what_the_overlay_decides() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.paths", "--check"],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "overlay" / "vllm")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
