# SPDX-License-Identifier: Apache-2.0
"""Every pinned release's own CMake files, the real package with CUTLASS, the lifted DeepGEMM."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.bases.releases import Base, Bases
from recipe.bases.sources import from_sdists, store_of
from recipe.compile.deepgemm import check, load_facts, uses_of
from recipe.compile.inner.find import Kind, Request
from recipe.compile.inner.folders import declared_in, inner_sources, scripted_in
from recipe.compile.inner.given import parse_given
from recipe.ground.project import Project
from tests.recipe.world import Checkout

VARIABLES = {
    "cutlass": "VLLM_CUTLASS_SRC_DIR",
    "deepgemm": "DEEPGEMM_SRC_DIR",
    "deepselect": "DEEPSELECT_SRC_DIR",
    "flashkda": "FLASH_KDA_SRC_DIR",
    "flashmla": "FLASH_MLA_SRC_DIR",
    "fmha_sm100": "FMHA_SM100_SRC_DIR",
    "qutlass": "QUTLASS_SRC_DIR",
    "tml_fa4": "TML_FA4_SRC_DIR",
    "triton_kernels": "TRITON_KERNELS_SRC_DIR",
    "vllm-flash-attn": "VLLM_FLASH_ATTN_SRC_DIR",
}
TARGETS = {
    "deepgemm": {"_deep_gemm_C"},
    "deepselect": {"_deepselect_C"},
    "flashkda": {"_flashkda_C"},
    "flashmla": {"_flashmla_C", "_flashmla_extension_C"},
    "vllm-flash-attn": {"_vllm_fa2_C", "_vllm_fa3_C", "_vllm_fa4_cutedsl_C"},
}
# CUTLASS's headers out of FlashInfer's wheel: 9 MB, what v0.20 and v0.21 depend on anyway.
CARRIER = "v0.20.2"


def own(base: Base) -> str:
    """Upstream's own pin of DeepGEMM."""
    assert base.deepgemm is not None
    return base.deepgemm.pin


@pytest.fixture(scope="module")
def commits(real: Checkout, bases: Bases) -> dict[str, str]:
    project = Project(root=real.root, cache=real.cache)
    return from_sdists(project, bases.releases, offline=False)


@pytest.fixture
def project(real: Checkout) -> Project:
    return Project(root=real.root, cache=real.cache)


def test_every_inner_source_has_its_variable_and_targets(
    project: Project, bases: Bases, commits: dict[str, str]
) -> None:
    store = store_of(project)
    for base in bases.releases:
        found = {one.name: one for one in declared_in(store, commits[base.tag])}
        assert {*found} == {pin.name for pin in base.inner}, base.tag
        for name, one in found.items():
            assert one.variable == VARIABLES[name]
            assert TARGETS.get(name, set(one.targets)) == set(one.targets)
            assert one.required, f"{base.tag}: nothing tells a whole {name} from an empty folder"
        assert "third-party/cutlass" in (found["deepgemm"].submodules or ())
        moe = "_moe_C" if base.version.release < (0, 24) else "_moe_C_stable_libtorch"
        assert moe in found["cutlass"].targets
        qutlass = "_C" if base.version.release < (0, 23, 1) else "_qutlass_C"
        assert found["qutlass"].targets == (qutlass,)


def test_cmake_leaves_deepgemm_alone_to_a_script(
    project: Project, bases: Bases, commits: dict[str, str]
) -> None:
    store = store_of(project)
    for base in bases.releases:
        found = scripted_in(store, commits[base.tag]) & {*base.components}
        assert found == (set() if base.tag < "v0.21" else {"_deep_gemm_C"}), base.tag


def test_placeholders_are_enough_for_what_is_not_built(
    project: Project, bases: Bases, commits: dict[str, str]
) -> None:
    for base in bases.releases:
        request = Request(base=base, needed=["spinloop"], offline=True)
        found = inner_sources(project, commits[base.tag], request)
        assert {one.kind for one in found} == {Kind.PLACEHOLDER}
        assert all(any(one.folder.rglob("*")) for one in found)


def test_cutlass_comes_out_of_a_package_where_no_git_host_is(
    project: Project, bases: Bases, commits: dict[str, str], tmp_path: Path
) -> None:
    base = bases.find(CARRIER)
    request = Request(base=base, needed=["_moe_C"])
    found = {one.name: one for one in inner_sources(project, commits[base.tag], request)}
    cutlass = found["cutlass"]
    assert cutlass.pinned
    assert (cutlass.folder / "include/cute/tensor.hpp").is_file()
    assert (cutlass.folder / "tools/util/include/cutlass/util/packed_stride.hpp").is_file()
    given = parse_given([f"cutlass={cutlass.folder}"], ["cutlass"])
    again = Request(base=base, needed=["_moe_C"], given=given, offline=True)
    named = {one.name: one for one in inner_sources(project, commits[base.tag], again)}["cutlass"]
    assert (named.identity, named.pinned) == (cutlass.identity, False)


def test_vllm_can_use_each_lifted_deepgemm(
    project: Project, bases: Bases, commits: dict[str, str]
) -> None:
    facts = load_facts()
    lifted = [base for base in bases.releases if base.lifted]
    assert [base.tag for base in lifted] == [
        base.tag
        for base in bases.releases
        if not facts[own(base)].sm120
        if base.version.release < (0, 25)
    ]
    for base in lifted:
        uses = uses_of(store_of(project), commits[base.tag])
        assert len(uses) > 30
        new = facts[base.pin_of("deepgemm").pin]
        assert new.sm120
        assert check(uses, new, facts[own(base)]) == ()
        # The newest one dropped arguments that these releases pass: the check sees that.
        newest = facts[own(bases.releases[-1])]
        assert any("clean_logits" in one for one in check(uses, newest, facts[own(base)]))
