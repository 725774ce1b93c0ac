# SPDX-License-Identifier: Apache-2.0
"""The architecture lists that upstream's own CMake function computes in the patched tree."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cmake_excerpt import DEEPGEMM, Query, arch_lists
from packaging.version import Version

MARLIN = ("MARLIN", "MARLIN_MOE")
SM12X = ("12.0", "12.1", "12.0;12.1", "12.0f")
ITSELF = ("12.1a", "12.1f")  # code for sm_121, asked for by name
OTHERS = ("7.5;8.0;8.6;8.9;9.0", "10.0", "9.0a", "9.0;10.0")
MIXED = "8.0;9.0;12.0"
QUERIES = [
    Query(*words)
    for words in itertools.product(
        (*MARLIN, DEEPGEMM), ("12.8", "12.9", "13.0"), (*SM12X, *ITSELF, *OTHERS, MIXED)
    )
]
# Sources that are not template kernels; from v0.23 on upstream leaves them at 8.0+PTX.
HELPERS = ("MARLIN_OTHER_ARCHS", "MARLIN_MOE_OTHER_ARCHS")
TURING = ("MARLIN_SM75_ARCHS", "MARLIN_MOE_SM75_ARCHS")

Lists = dict[str, list[str]]


@pytest.fixture(scope="module")
def patched(tree: Path) -> dict[Query, Lists]:
    return arch_lists(tree, QUERIES)


@pytest.fixture(scope="module")
def unpatched(pristine: Path) -> dict[Query, Lists]:
    return arch_lists(pristine, QUERIES)


def sm12x_lists(base: Version, lists: Lists) -> Lists:
    without = TURING if base < Version("0.23") else TURING + HELPERS
    kept = {name: archs for name, archs in lists.items() if name not in without}
    assert len(kept) >= 2
    return kept


@pytest.mark.parametrize("prefix", MARLIN)
@pytest.mark.parametrize("asked", SM12X)
def test_cuda_13_compiles_every_marlin_list_for_the_family(
    base: Version, patched: dict[Query, Lists], prefix: str, asked: str
) -> None:
    for name, archs in sm12x_lists(base, patched[Query(prefix, "13.0", asked)]).items():
        assert archs == ["12.0f"], name


@pytest.mark.parametrize("prefix", MARLIN)
@pytest.mark.parametrize("asked", ITSELF)
def test_cuda_13_compiles_for_sm_121_itself_where_it_is_named(
    base: Version,
    patched: dict[Query, Lists],
    unpatched: dict[Query, Lists],
    prefix: str,
    asked: str,
) -> None:
    query = Query(prefix, "13.0", asked)
    for name, archs in sm12x_lists(base, patched[query]).items():
        assert archs == [asked], name
    assert all(asked not in archs for archs in unpatched[query].values())


@pytest.mark.parametrize("prefix", MARLIN)
@pytest.mark.parametrize("cuda", ["12.8", "12.9"])
def test_cuda_12_compiles_every_marlin_list_for_both_chips(
    base: Version, patched: dict[Query, Lists], prefix: str, cuda: str
) -> None:
    for name, archs in sm12x_lists(base, patched[Query(prefix, cuda, "12.0;12.1")]).items():
        assert archs == ["12.0a", "12.1a"], name


@pytest.mark.parametrize("prefix", MARLIN)
def test_other_devices_keep_their_lists(
    patched: dict[Query, Lists], unpatched: dict[Query, Lists], prefix: str
) -> None:
    for cuda, asked in itertools.product(("12.8", "12.9", "13.0"), OTHERS):
        query = Query(prefix, cuda, asked)
        assert unpatched[query], query
        assert patched[query] == unpatched[query], query


def test_a_mixed_list_serves_old_and_new_devices(patched: dict[Query, Lists]) -> None:
    lists = patched[Query("MARLIN", "13.0", MIXED)]
    assert lists["MARLIN_ARCHS"] == ["12.0f", "8.0+PTX"]
    assert lists["MARLIN_FP8_ARCHS"] == ["12.0f"]


@pytest.mark.parametrize("prefix", MARLIN)
def test_the_unpatched_tree_lacks_what_the_patch_adds(
    base: Version, unpatched: dict[Query, Lists], prefix: str
) -> None:
    if base >= Version("0.24") or (base >= Version("0.23") and prefix == "MARLIN"):
        pytest.skip("upstream has the topic here")
    lists = sm12x_lists(base, unpatched[Query(prefix, "13.0", "12.1")])
    assert any(archs != ["12.0f"] for archs in lists.values())


def test_deepgemm_is_built_for_the_family(patched: dict[Query, Lists]) -> None:
    for asked in ("12.0", "12.1", "12.0;12.1"):
        assert patched[Query(DEEPGEMM, "13.0", asked)]["DEEPGEMM_ARCHS"] == ["12.0f"]
    both = patched[Query(DEEPGEMM, "12.9", "12.0;12.1")]["DEEPGEMM_ARCHS"]
    assert both == ["12.0a", "12.1a"]


def test_deepgemm_keeps_its_other_devices(
    patched: dict[Query, Lists], unpatched: dict[Query, Lists]
) -> None:
    for cuda in ("12.8", "12.9", "13.0"):
        query = Query(DEEPGEMM, cuda, "9.0;10.0")
        assert unpatched[query]["DEEPGEMM_ARCHS"]
        assert patched[query]["DEEPGEMM_ARCHS"] == unpatched[query]["DEEPGEMM_ARCHS"]


@pytest.mark.parametrize("arch", ["12.0", "12.1"])
def test_the_generators_write_fp8_sources_for_either_chip(
    tree: Path, tmp_path: Path, arch: str
) -> None:
    # Which files are written is asked here, not what is in them: rendering them takes far longer.
    stub = (
        "class Template:\n def __init__(self, text): pass\n def render(self, **names): return ''\n"
    )
    (tmp_path / "jinja2.py").write_text(stub, encoding="utf-8")
    scripts = [p for p in (tree / "csrc").rglob("generate_kernels.py") if "marlin" in str(p)]
    assert scripts
    for script in scripts:
        done = subprocess.run(
            [sys.executable, script.name, arch],
            cwd=script.parent,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        made = list(script.parent.glob("sm89_kernel_*.cu"))
        for path in script.parent.glob("sm*_kernel_*.cu"):
            path.unlink()
        assert made, f"{script}: no FP8 source for {arch}"
