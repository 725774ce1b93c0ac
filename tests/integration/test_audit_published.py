# SPDX-License-Identifier: Apache-2.0
"""Upstream's published wheels: what they hold for SM12x, and NVIDIA's tool beside our reading."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from recipe.bases.download import fetch
from recipe.bases.releases import Archive, Bases, load_bases
from recipe.bases.sources import from_sdist, store_of
from recipe.gpu import expected as expected_code
from recipe.gpu.audit.lacks import absent, lacking, left_out
from recipe.gpu.code import ComponentCode, published_code, wheel_code
from recipe.gpu.fatbin import Kind
from recipe.gpu.kernel_names import FP4_GEMM, MARLIN, MARLIN_MOE, SCALED_MM
from recipe.ground.project import Project
from tests.recipe.fatbins import run
from tests.recipe.world import CHECKOUT, Checkout

TAGS = [base.tag for base in load_bases(CHECKOUT / "bases.toml").releases]
CPU_SECONDS = 60  # of the processor: what else runs on the machine doesn't count


@cache
def published(tag: str, cache_folder: Path) -> tuple[Path, tuple[ComponentCode, ...]]:
    """The x86_64 wheel of a base and its code."""
    base = load_bases(CHECKOUT / "bases.toml").find(tag)
    archive: Archive = base.wheels["x86_64"]
    path = fetch(
        archive, project="vllm", version=str(base.version), cache=cache_folder, offline=False
    )
    return path, published_code(path, archive.sha256, cache_folder)


def audited(real: Checkout, tag: str) -> tuple[int, dict[str, Any]]:
    path, _ = published(tag, real.cache)
    done = real.run("audit", str(path), "--arch", "12.1", "--json")
    return done.status, json.loads(done.out)


def component(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(dict(one) for one in document["components"] if one["name"] == name)


def gaps(found: dict[str, Any], state: str) -> dict[str, int]:
    rows = found["devices"]["12.1"]["gaps"]
    return {row["family"]: row["kernels"] for row in rows if row["state"] == state}


def test_v0_20_2_has_marlin_for_gb10_with_fp8_activations_alone(real: Checkout) -> None:
    status, document = audited(real, "v0.20.2")
    assert status == 6
    moe = component(document, "_moe_C")
    assert moe["images"]["sass"]["sm_120"] == 13
    assert moe["verdict"] == {"12.1": "same-major"}
    # 204 kernels for FP8 activations are among the 13 images; the others are PTX for sm_80.
    assert gaps(moe, "wrong") == {
        "Marlin-MoE (bf16 activations)": 285,
        "Marlin-MoE (fp16 activations)": 255,
        "Marlin-MoE (int8 activations)": 192,
    }
    assert set(gaps(component(document, "_C"), "wrong")) == {
        "Marlin (bf16 activations)",
        "Marlin (fp16 activations)",
        "Marlin (int8 activations)",
    }
    assert component(document, "_vllm_fa2_C")["verdict"] == {"12.1": "ptx"}
    assert component(document, "_deep_gemm_C")["run_time"] == ["sm_90", "sm_100"]


def test_v0_33_0_lacks_qutlass_alone(real: Checkout) -> None:
    status, document = audited(real, "v0.33.0")
    assert status == 6
    assert document["devices"]["12.1"]["reasons"] == ["_qutlass_C has no code it can run"]
    moe = component(document, "_moe_C_stable_libtorch")
    assert moe["images"]["sass"]["sm_120"] + moe["images"]["sass"]["sm_120f"] == 27
    assert gaps(moe, "wrong") == {}
    assert component(document, "_deep_gemm_C")["verdict"] == {"12.1": "at-run-time"}


@pytest.mark.parametrize("tag", ["v0.20.2", "v0.24.0", "v0.33.0"])
def test_a_published_wheel_has_what_its_release_has_and_all_of_marlin(
    real: Checkout, bases: Bases, tag: str
) -> None:
    """On x86_64 it has Marlin for Turing, too, from sources of its own."""
    _, code = published(tag, real.cache)
    base = bases.find(tag)
    assert absent(code, base) == ()
    for device in ("12.0", "12.1"):
        assert lacking(code, device, base) == []
        for one in code:
            families = {name for unit in one.units for image in unit for name in image.kernels}
            assert {left_out(family, one, device)[1] for family in families} <= {0}, one.name
    turing = [unit for one in code for unit in one.units if {i.target for i in unit} == {"7.5"}]
    assert any(MARLIN in name for (image,) in turing for name in image.kernels)


def test_a_large_wheel_is_read_in_less_than_a_minute(real: Checkout) -> None:
    path, _ = published("v0.33.0", real.cache)
    start = time.process_time()
    wheel_code(path)
    assert time.process_time() - start < CPU_SECONDS


@pytest.mark.parametrize("tag", ["v0.20.2", "v0.33.0"])
def test_cuobjdump_lists_the_same_images(real: Checkout, tmp_path: Path, tag: str) -> None:
    """It lists 120f as sm_120; which of them are 120f it says only where it prints all."""
    path, code = published(tag, real.cache)
    for one in code:
        if not one.units:
            continue
        with zipfile.ZipFile(path) as wheel:
            file = Path(wheel.extract(one.file, tmp_path))
        listed = run("cuobjdump", "--list-elf", "--list-ptx", file)
        file.unlink()
        for kind, ending in ((Kind.SASS, "cubin"), (Kind.PTX, "ptx")):
            theirs = Counter(re.findall(rf"\.sm_(\w+)\.{ending}$", listed, re.MULTILINE))
            ours: Counter[str] = Counter()
            for target, number in one.targets(kind).items():
                ours[target.replace(".", "").removesuffix("f")] += number
            assert ours == theirs, (one.name, kind)


@pytest.mark.parametrize("name", ["_flashmla_extension_C", "_qutlass_C"])
def test_cuobjdump_names_the_same_families(real: Checkout, tmp_path: Path, name: str) -> None:
    path, code = published("v0.33.0", real.cache)
    found = next(one for one in code if one.name == name)
    with zipfile.ZipFile(path) as wheel:
        file = wheel.extract(found.file, tmp_path)
    theirs = Counter(re.findall(r"^arch = sm_(\w+)$", run("cuobjdump", "-elf", file), re.MULTILINE))
    ours = {target.replace(".", ""): n for target, n in found.targets(Kind.SASS).items()}
    assert ours == theirs
    assert any(target.endswith("f") for target in ours)


LISTS = {"_flashmla_C": "flashmla", "_deepselect_C": "deepselect"}


@pytest.mark.parametrize("tag", TAGS)
def test_what_has_no_code_by_design_has_none_in_upstreams_lists(
    real: Checkout, bases: Bases, tag: str
) -> None:
    """And the majors we say it is written for are those of the list."""
    project = Project(root=real.root, cache=real.cache)
    base = bases.find(tag)
    commit = from_sdist(project, base, offline=False).commit
    store = store_of(project)
    for name, file in LISTS.items():
        if name not in base.components:
            continue
        text = store.read(commit, f"cmake/external_projects/{file}.cmake").decode()
        majors = set(re.findall(r'SUPPORT_ARCHS "(\d+)\.', text))
        assert majors == set(expected_code.REACH[name].majors), name
    assert not set(base.components) - {*KNOWN, *expected_code.REACH}


# Components that should serve SM12x, or hold no GPU code.
KNOWN = {
    "_C",
    "_C_stable_libtorch",
    "_deep_gemm_C",
    "_flashkda_C",
    "_moe_C",
    "_moe_C_stable_libtorch",
    "_qutlass_C",
    "_rust_tool_parser",
    "_vllm_fa2_C",
    "cumem_allocator",
    "fs_io_C",
    "spinloop",
}


@pytest.mark.parametrize("tag", TAGS)
def test_what_an_audit_requires_is_in_upstreams_lists(
    real: Checkout, bases: Bases, tag: str
) -> None:
    """Each required family has an architecture list that names 12.0, on every base."""
    project = Project(root=real.root, cache=real.cache)
    commit = from_sdist(project, bases.find(tag), offline=False).commit
    cmake = store_of(project).read(commit, "CMakeLists.txt").decode()
    found = set(re.findall(r'intersection\((\w+) "[^"$]*\b12\.0', cmake))
    lists = {
        MARLIN: r"MARLIN_(?!MOE)\w*ARCHS",
        MARLIN_MOE: r"MARLIN_MOE_\w*ARCHS",
        SCALED_MM: r"SCALED_MM_ARCHS",
        FP4_GEMM: r"FP4_\w*ARCHS",
    }
    assert set(lists) == set(expected_code.REQUIRED)
    for family, pattern in lists.items():
        assert any(re.fullmatch(pattern, name) for name in found), (family, sorted(found))
