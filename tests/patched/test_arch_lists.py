# SPDX-License-Identifier: Apache-2.0
"""The architecture lists that upstream's own CMake function computes in the patched tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cmake_excerpt import arch_lists, parse_lists, preamble, run_script
from packaging.version import Version

MARLIN = ("MARLIN", "MARLIN_MOE")
# Sources that are not template kernels; from v0.23 on upstream leaves them at 8.0+PTX.
HELPERS = ("MARLIN_OTHER_ARCHS", "MARLIN_MOE_OTHER_ARCHS")
TURING = ("MARLIN_SM75_ARCHS", "MARLIN_MOE_SM75_ARCHS")


def sm12x_lists(base: Version, lists: dict[str, list[str]]) -> dict[str, list[str]]:
    without = TURING if base < Version("0.23") else TURING + HELPERS
    return {name: archs for name, archs in lists.items() if name not in without}


@pytest.mark.parametrize("prefix", MARLIN)
@pytest.mark.parametrize("asked", ["12.0", "12.1", "12.0;12.1", "12.1a", "12.0f"])
def test_cuda_13_compiles_every_marlin_list_for_the_family(
    base: Version, tree: Path, prefix: str, asked: str
) -> None:
    lists = sm12x_lists(base, arch_lists(tree, prefix, cuda="13.0", asked=asked))
    assert len(lists) >= 2
    assert lists == {key: ["12.0f"] for key in lists}


@pytest.mark.parametrize("prefix", MARLIN)
@pytest.mark.parametrize("cuda", ["12.8", "12.9"])
def test_cuda_12_compiles_every_marlin_list_for_both_chips(
    base: Version, tree: Path, prefix: str, cuda: str
) -> None:
    lists = sm12x_lists(base, arch_lists(tree, prefix, cuda=cuda, asked="12.0;12.1"))
    assert lists == {key: ["12.0a", "12.1a"] for key in lists}


@pytest.mark.parametrize("prefix", MARLIN)
@pytest.mark.parametrize("cuda", ["12.8", "13.0"])
def test_other_devices_keep_their_lists(tree: Path, pristine: Path, prefix: str, cuda: str) -> None:
    for asked in ("7.5;8.0;8.6;8.9;9.0", "10.0", "9.0a"):
        patched = arch_lists(tree, prefix, cuda=cuda, asked=asked)
        assert patched == arch_lists(pristine, prefix, cuda=cuda, asked=asked)


def test_a_mixed_list_serves_old_and_new_devices(base: Version, tree: Path) -> None:
    lists = arch_lists(tree, "MARLIN", cuda="13.0", asked="8.0;9.0;12.0")
    assert lists["MARLIN_ARCHS"] == ["12.0f", "8.0+PTX"]
    assert lists["MARLIN_FP8_ARCHS"] == ["12.0f"]


@pytest.mark.parametrize("prefix", MARLIN)
def test_the_unpatched_tree_lacks_what_the_patch_adds(
    base: Version, pristine: Path, prefix: str
) -> None:
    if base >= Version("0.24") or (base >= Version("0.23") and prefix == "MARLIN"):
        pytest.skip("upstream has the topic here")
    lists = sm12x_lists(base, arch_lists(pristine, prefix, cuda="13.0", asked="12.1"))
    assert any(archs != ["12.0f"] for archs in lists.values())


def deepgemm_lists(tree: Path, *, cuda: str, asked: str) -> list[str]:
    folder = tree / "cmake" / "external_projects"
    text = (folder / "deepgemm.cmake").read_text(encoding="utf-8")
    piece = text[text.index("set(DEEPGEMM_SUPPORT_ARCHS)") : text.index("if(DEEPGEMM_ARCHS)")]
    cmake = (tree / "CMakeLists.txt").read_text(encoding="utf-8")
    shown = 'message("DEEPGEMM_ARCHS=${DEEPGEMM_ARCHS}")\n'
    output = run_script(preamble(tree, cmake, cuda, asked) + piece + shown, folder)
    return parse_lists(output)["DEEPGEMM_ARCHS"]


def test_deepgemm_is_built_for_the_family(tree: Path) -> None:
    for asked in ("12.0", "12.1", "12.0;12.1"):
        assert deepgemm_lists(tree, cuda="13.0", asked=asked) == ["12.0f"]
    assert deepgemm_lists(tree, cuda="12.9", asked="12.0;12.1") == ["12.0a", "12.1a"]


def test_deepgemm_keeps_its_other_devices(tree: Path, pristine: Path) -> None:
    for cuda in ("12.8", "12.9", "13.0"):
        expected = deepgemm_lists(pristine, cuda=cuda, asked="9.0;10.0")
        assert expected
        assert deepgemm_lists(tree, cuda=cuda, asked="9.0;10.0") == expected


@pytest.mark.parametrize("arch", ["12.0", "12.1"])
def test_the_generators_write_fp8_sources_for_either_chip(tree: Path, arch: str) -> None:
    scripts = [p for p in (tree / "csrc").rglob("generate_kernels.py") if "marlin" in str(p)]
    assert scripts
    for script in scripts:
        done = subprocess.run(
            [sys.executable, script.name, arch], cwd=script.parent, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        made = list(script.parent.glob("sm89_kernel_*.cu"))
        for path in script.parent.glob("sm*_kernel_*.cu"):
            path.unlink()
        assert made, f"{script}: no FP8 source for {arch}"
