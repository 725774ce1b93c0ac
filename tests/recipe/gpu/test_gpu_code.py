# SPDX-License-Identifier: Apache-2.0
"""What a device gets from a component, by the rules that users' machines judge by as well."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from recipe.gpu import code as gpu_code
from recipe.gpu.arch import Verdict
from recipe.gpu.code import ComponentCode, Image, published_code, verdicts, wheel_code
from recipe.gpu.fatbin import Kind
from recipe.gpu.kernel_names import family
from recipe.ground.errors import AuditError
from tests.recipe import small
from tests.recipe.fatbins import AXPY, MARLIN_BF16, shared_object, unit
from tests.recipe.world import CHECKOUT

DEVICES = ("8.0", "8.6", "9.0", "10.0", "10.3", "12.0", "12.1")
NOTHING = (Verdict.NONE, Verdict.NO_GPU_CODE)


def code(sass: str = "", ptx: str = "") -> ComponentCode:
    """A component with one translation unit for each target."""
    images = [(Kind.SASS, target) for target in sass.split()]
    images += [(Kind.PTX, target) for target in ptx.split()]
    return ComponentCode(
        name="_C",
        file="_C.so",
        units=tuple((Image(kind=kind, target=t, kernels={"f": 1}),) for kind, t in images),
    )


@pytest.mark.parametrize(
    ("sass", "ptx", "expected"),
    [
        ("12.0", "", {"12.0": "native", "12.1": "same-major", "10.0": "none", "9.0": "none"}),
        ("12.0a", "", {"12.0": "native", "12.1": "none"}),
        ("12.0f", "", {"12.0": "family", "12.1": "family", "10.0": "none"}),
        ("12.1", "", {"12.0": "none", "12.1": "native"}),
        ("12.1f", "", {"12.0": "none", "12.1": "family"}),
        ("12.1a", "", {"12.0": "none", "12.1": "native"}),
        ("12.0 12.0f 12.1a", "", {"12.0": "native", "12.1": "native"}),
        ("10.0f", "", {"10.0": "family", "10.3": "family", "12.0": "none"}),
        ("8.0", "", {"8.0": "native", "8.6": "same-major", "12.0": "none"}),
        ("8.0", "8.0", {"8.6": "same-major", "9.0": "ptx", "12.1": "ptx"}),
        ("", "12.1", {"12.0": "none", "12.1": "ptx"}),
        ("", "12.0f", {"12.0": "ptx", "12.1": "ptx", "10.0": "none"}),
        ("", "12.0a", {"12.0": "ptx", "12.1": "none"}),
        ("", "", {"12.0": "no-gpu-code"}),
    ],
)
def test_the_best_a_device_gets(sass: str, ptx: str, expected: dict[str, str]) -> None:
    found = code(sass, ptx)
    assert {device: found.verdict(device) for device in expected} == expected


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    """The overlay's own reading, which runs where no recipe is installed."""
    path = CHECKOUT / "overlay" / "vllm" / "vllm" / "sm12x" / "doctor" / "binaries.py"
    spec = importlib.util.spec_from_file_location("overlay_binaries", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ptx", ["", "8.0", "9.0a", "12.0f", "12.1"])
@pytest.mark.parametrize(
    "sass", ["", "8.0", "9.0a", "10.0f", "12.0", "12.0a", "12.0f", "12.1", "12.1a", "12.1f"]
)
def test_the_overlay_on_the_users_machine_judges_alike(
    theirs: ModuleType, sass: str, ptx: str, device: str
) -> None:
    extension = theirs.Extension(
        name="_C",
        sass=tuple(t.replace(".", "") for t in sass.split()),
        ptx=tuple(t.replace(".", "") for t in ptx.split()),
    )
    major, minor = device.split(".")
    judged = extension.verdict((int(major), int(minor)))

    same = {
        theirs.Verdict.NATIVE: (Verdict.NATIVE, Verdict.FAMILY),
        theirs.Verdict.SAME_MAJOR: (Verdict.SAME_MAJOR, Verdict.FAMILY),
        theirs.Verdict.PTX: (Verdict.PTX,),
        theirs.Verdict.NO_CODE: (Verdict.NONE,),
        theirs.Verdict.NO_GPU_CODE: (Verdict.NO_GPU_CODE,),
    }
    assert code(sass, ptx).verdict(device) in same[judged]


def mangled(*names: str) -> str:
    """A kernel of these namespaces as a compiler names it."""
    return "_ZN" + "".join(f"{len(name)}{name}" for name in names) + "IfEEvPT_"


GEMM = "cutlass", "device_kernel"
MOE = "_ZN16marlin_moe_wna166MarlinIL"


@pytest.mark.parametrize(
    ("name", "component", "expected"),
    [
        (MARLIN_BF16, "_C", "Marlin (bf16 activations)"),
        (MOE + "l2814749767172868EEEvv", "_moe_C", "Marlin-MoE (fp8 activations)"),
        (MOE + "l77EEEvv", "_moe_C", "Marlin-MoE"),
        (mangled("marlin", "MarlinDefault"), "_C", "marlin::MarlinDefault"),
        (AXPY, "_C", "vllm::axpy"),
        (mangled("vllm", "_GLOBAL__N__0123abcd_4_k_cu_89ab", "f"), "_C", "vllm::f"),
        (mangled("cub", "CUB_300001_SM_750_1200", "detail", "f"), "_C", "cub::CUB::detail::f"),
        ("_Z18router_gemm_kernelILi4EEvv", "_moe_C", "router_gemm_kernel"),
        ("plain_c_name", "_C", "plain_c_name"),
        (mangled(*GEMM) + "12nv_float4_t", "_C", "CUTLASS FP4 GEMM"),
        (mangled(*GEMM) + "17enable_sm120_only", "_C", "CUTLASS scaled_mm"),
        (mangled(*GEMM), "_qutlass_C", "QuTLASS"),
        (mangled("sm100", "decode", "f"), "_flashmla_C", "FlashMLA"),
        # Python's int() refuses numbers of thousands of digits.
        ("_ZN" + "9" * 5000 + "x", "_C", "_ZN" + "9" * 5000 + "x"),
        ("_ZN6marlin6MarlinILl" + "1" * 5000 + "E", "_C", "Marlin"),
    ],
)
def test_a_kernels_family(name: str, component: str, expected: str) -> None:
    assert family(name, component) == expected


def test_a_fresh_object_is_judged_without_a_wheel(tmp_path: Path) -> None:
    path = tmp_path / "_moe_C.abi3.so"
    path.write_bytes(shared_object(unit(tmp_path, ("120f",), ("80",))))
    expected = {"12.0": Verdict.FAMILY, "12.1": Verdict.FAMILY, "9.0": Verdict.PTX}
    assert verdicts(path, expected) == expected
    assert verdicts(path.read_bytes(), expected) == expected
    path.write_bytes(b"no object")
    with pytest.raises(AuditError, match=r"_moe_C"):
        verdicts(path, expected)


def test_deepgemm_is_judged_by_the_sources_it_compiles(tmp_path: Path) -> None:
    impls = "vllm/third_party/deep_gemm/include/deep_gemm/impls"
    path = tmp_path / "x.whl"
    members = {
        "vllm/third_party/deep_gemm/_C.cpython-312-x86_64-linux-gnu.so": small.shared_object(),
        f"{impls}/sm90_bf16_gemm.cuh": b"",
        f"{impls}/sm120_bf16_gemm.cuh": b"",
        f"{impls}/smxx_layout.cuh": b"",
    }
    path.write_bytes(small.make_wheel(members))
    found = {one.name: one for one in wheel_code(path)}["_deep_gemm_C"]
    assert found.run_time == ("9.0", "12.0")
    assert [found.verdict(device) for device in ("9.0", "10.0", "12.1")] == [
        Verdict.AT_RUN_TIME,
        Verdict.NONE,
        Verdict.AT_RUN_TIME,
    ]


def test_each_pythons_copy_of_deepgemm_is_judged(tmp_path: Path) -> None:
    folder = "vllm/third_party/deep_gemm"
    path = tmp_path / "x.whl"
    copies = (f"{folder}/_C.cpython-{python}-x86_64-linux-gnu.so" for python in (310, 312))
    header = f"{folder}/include/deep_gemm/impls/sm120_bf16_gemm.cuh"
    path.write_bytes(small.make_wheel(dict.fromkeys(copies, small.shared_object()) | {header: b""}))
    found = {one.name: one for one in wheel_code(path) if one.component == "_deep_gemm_C"}
    assert list(found) == ["_deep_gemm_C for Python 3.10", "_deep_gemm_C for Python 3.12"]
    assert {one.verdict("12.1") for one in found.values()} == {Verdict.AT_RUN_TIME}


def test_two_objects_of_one_name_are_told_apart_by_their_files(tmp_path: Path) -> None:
    path = tmp_path / "x.whl"
    path.write_bytes(small.make_wheel({"vllm/other/_C.abi3.so": small.shared_object()}))
    assert [one.name for one in wheel_code(path)] == [
        "vllm/_C.abi3.so",
        "vllm/other/_C.abi3.so",
    ]


def test_a_published_wheel_is_read_once(tmp_path: Path) -> None:
    path, cache = tmp_path / "x.whl", tmp_path / "cache"
    fat = unit(tmp_path, ("80", "120f"), ("80",), kernels=(AXPY, MARLIN_BF16))
    path.write_bytes(small.make_wheel(binary=shared_object(fat)))
    first = published_code(path, "ab" * 32, cache)
    assert first == wheel_code(path)
    path.unlink()
    assert published_code(path, "ab" * 32, cache) == first
    (stored,) = (cache / "gpu-code").iterdir()

    for damage in ("{", "[]x", json.dumps([{"name": 1}])):
        stored.write_text(damage, encoding="utf-8")
        with pytest.raises(FileNotFoundError):  # it is read anew, and the wheel is gone
            published_code(path, "ab" * 32, cache)


def test_a_reading_is_kept_by_the_code_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tmp_path / "x.whl", tmp_path / "cache"
    path.write_bytes(small.make_wheel(binary=shared_object(unit(tmp_path, ("80",)))))
    published_code(path, "ab" * 32, cache)
    monkeypatch.setattr(gpu_code, "SCHEMA", gpu_code.SCHEMA + 1)
    published_code(path, "ab" * 32, cache)
    assert len(list((cache / "gpu-code").iterdir())) == 2
