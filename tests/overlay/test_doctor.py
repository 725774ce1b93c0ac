# SPDX-License-Identifier: Apache-2.0
"""The doctor reads what is there, judges it by CUDA's rules, and only ever looks."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flashinfer_wheels import install
from vllm.sm12x import envs
from vllm.sm12x.doctor import binaries, command, machine
from vllm.sm12x.doctor import report as doctor
from vllm.sm12x.doctor.binaries import Extension, Verdict
from vllm.sm12x.doctor.host_memory import HostMemory
from vllm.sm12x.doctor.machine import Device, Facts, Knob
from vllm.sm12x.doctor.report import advise, choices, choose_gemm
from vllm.sm12x.support import FlashInfer, Route
from vllm.sm12x.support.gemm import DeepGemm

GB10 = Device(name="NVIDIA GB10", capability=(12, 1), memory_gib=120, integrated=True)
PRO = Device(name="RTX PRO 6000", capability=(12, 0), memory_gib=95)
H100 = Device(name="H100", capability=(9, 0), memory_gib=80)
KERNELS = FlashInfer(version="0.7.2", kernels=True, hangs=False)
MEMORY = HostMemory(
    total=119 << 30, free=100 << 30, available=110 << 30, large_free=90 << 30, swap_total=0,
    swap_free=0, page=4096,
)  # fmt: skip


def facts(**changes: Any) -> Facts:
    """A healthy GB10 with v0.33.0, but for what is given."""
    healthy: dict[str, Any] = {
        "devices": (GB10,),
        "is_cuda": True,
        "driver": "580.1",
        "memory": MEMORY,
        "versions": {
            "vllm": "0.33.0+sm12x.1",
            "torch": "2.14.0",
            "triton": "3.9.0",
            "flashinfer-python": "0.7.2",
        },
        "flashinfer": KERNELS,
        "flashinfer_shapes": None,
        "flashinfer_unusable": "",
        "deep_gemm": DeepGemm(installed=True, kernels=True),
        "extensions": (Extension(name="_C.abi3.so", sass=("90a", "120"), ptx=()),),
        "examined": True,
        "knobs": (),
        "unknown_knobs": (),
        "faults": (),
    }
    return Facts(**(healthy | changes))


def versions(**changes: str | None) -> dict[str, str | None]:
    return facts().versions | changes


def advice_for(found: Facts, forced: bool | None = None) -> str:
    device = found.devices[0] if found.devices else None
    gemm = choose_gemm(found, device, forced)
    return "\n".join(advise(found, choices(found, device, forced), gemm))


def report(found: Facts) -> str:
    """As it is where there is nothing to change."""
    device = found.devices[0]
    chosen = choices(found, device, None), choose_gemm(found, device, None)
    return doctor.report(found, *chosen, ())


def test_memory_that_the_gpu_does_not_get_is_told_where_it_shares_the_hosts() -> None:
    full = dataclasses.replace(MEMORY, free=5 << 30, large_free=4 << 30)
    for device, advised in ((GB10, True), (PRO, False)):
        found = facts(devices=(device,), memory=full)
        assert "5.00 GiB free, 110.00 GiB available" in report(found)
        assert ("drop_caches" in advice_for(found)) is advised
    assert "drop_caches" not in advice_for(facts())
    assert "GiB available" not in report(facts(memory=None))


@pytest.mark.parametrize(
    ("sass", "ptx", "capability", "verdict"),
    [
        (("120",), (), (12, 0), Verdict.NATIVE),
        (("120",), (), (12, 1), Verdict.SAME_MAJOR),
        (("120f",), (), (12, 1), Verdict.SAME_MAJOR),
        (("120a",), (), (12, 0), Verdict.NATIVE),
        (("120a",), (), (12, 1), Verdict.NO_CODE),
        (("121a",), (), (12, 1), Verdict.NATIVE),
        (("121",), (), (12, 0), Verdict.NO_CODE),
        (("90", "100"), (), (12, 0), Verdict.NO_CODE),
        (("80", "90a"), ("80",), (12, 1), Verdict.PTX),
        (("80",), ("90a",), (12, 1), Verdict.NO_CODE),
        ((), ("121",), (12, 0), Verdict.NO_CODE),
        ((), (), (12, 0), Verdict.NO_GPU_CODE),
        (None, None, (12, 0), Verdict.UNKNOWN),
        (("80", "120"), (), (9, 0), Verdict.NO_CODE),
        (("80",), (), (8, 9), Verdict.SAME_MAJOR),
    ],
)
def test_an_extension_is_judged_by_cudas_rules(
    sass: tuple[str, ...] | None,
    ptx: tuple[str, ...] | None,
    capability: tuple[int, int],
    verdict: Verdict,
) -> None:
    assert Extension(name="x.so", sass=sass, ptx=ptx).verdict(capability) is verdict


TOOL = """#!/bin/sh
case "$1 $2" in
  *empty.so) echo "cuobjdump info    : File '$2' does not contain device code"; exit 255 ;;
  *broken.so) echo "cuobjdump fatal   : Invalid fatbin header" >&2; exit 1 ;;
  --list-elf*) echo "ELF file    1: moe.1.sm_120.cubin"; echo "ELF file    2: moe.2.sm_90a.cubin"
               echo "ELF file    3: moe.3.sm_90a.cubin" ;;
  --list-ptx*) echo "PTX file    1: moe.1.sm_80.ptx" ;;
esac
"""


def test_extensions_are_listed_with_what_the_tool_says(tmp_path: Path) -> None:
    tool = tmp_path / "cuobjdump"
    tool.write_text(TOOL, encoding="utf-8")
    tool.chmod(0o755)
    package = tmp_path / "vllm"
    for name in ("_moe_C.abi3.so", "empty.so", "broken.so", "third/_C.so"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    found = {extension.name: extension for extension in binaries.examine(package, tool)}
    moe = Extension(name="_moe_C.abi3.so", sass=("90a", "120"), ptx=("80",))
    assert found["_moe_C.abi3.so"] == moe
    assert found["third/_C.so"].sass == ("90a", "120")
    assert (found["empty.so"].sass, found["empty.so"].ptx) == ((), ())
    assert (found["broken.so"].sass, found["broken.so"].ptx) == (None, None)
    without = binaries.examine(package, None)
    assert {extension.verdict((12, 0)) for extension in without} == {Verdict.UNKNOWN}
    missing = binaries.examine(package, tmp_path / "no such tool")
    assert {extension.verdict((12, 0)) for extension in missing} == {Verdict.UNKNOWN}


def test_the_tool_is_looked_for_on_the_path_and_then_in_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert binaries.find_cuobjdump([tmp_path]) is None
    packaged = tmp_path / "nvidia" / "cu13" / "bin" / "cuobjdump"
    packaged.parent.mkdir(parents=True)
    packaged.touch()
    assert binaries.find_cuobjdump([tmp_path]) == packaged
    monkeypatch.setattr(shutil, "which", lambda name: f"/some/{name}")
    assert binaries.find_cuobjdump([tmp_path]) == Path("/some/cuobjdump")


def test_nothing_is_to_change_on_a_healthy_machine() -> None:
    assert advice_for(facts()) == ""
    text = report(facts())
    for part in ("NVIDIA GB10, capability 12.1", "driver 580.1", "triton 3.9.0", "sm_120"):
        assert part in text
    assert text.endswith("To change\n  nothing")
    assert "DeepGEMM for SM12x: kernels" in text
    assert "GEMM: upstream, because DeepGEMM has kernels for SM12x" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"versions": versions(triton="3.6.0")}, "Triton 3.6.0"),
        ({"versions": versions(triton="3.7.1")}, "sm_121"),
        ({"unknown_knobs": ("VLLM_SM12X_PREFECTH",)}, "VLLM_SM12X_PREFECTH"),
        ({"extensions": (Extension(name="_C.so", sass=("90",), ptx=("80",)),)}, "Build _C.so"),
        ({"extensions": (Extension(name="_C.so", sass=("90",), ptx=()),)}, "no code"),
        (
            {"knobs": (Knob(name="X", value=1, origin="", problem="Ignoring X='a': no."),)},
            "Ignoring X='a'",
        ),
    ],
)
def test_each_trouble_has_its_advice(changes: dict[str, Any], expected: str) -> None:
    assert expected in advice_for(facts(**changes))


@pytest.mark.parametrize("device", [PRO, H100])
def test_tritons_trap_is_about_sm121_alone(device: Device) -> None:
    found = facts(devices=(device,), versions=versions(triton="3.6.0"))
    assert "Triton" not in advice_for(found)


def test_a_flashinfer_that_can_hang_is_advised_against_where_it_is_used() -> None:
    found = facts(flashinfer=FlashInfer(version="0.6.16", kernels=True, hangs=True))
    assert "0.6.18" not in advice_for(found)
    assert "0.6.18" in advice_for(found, forced=False)


def taken(found: Facts, device: Device, forced: bool | None = None) -> dict[str, Route]:
    """The path of each model that is there, without speculative decoding."""
    return {
        row.model: row.choice.path
        for row in choices(found, device, forced)
        if not row.speculation and "no such model" not in row.choice.why
    }


def test_paths_are_those_that_support_decides() -> None:
    newest = taken(facts(), GB10)
    triton = {name for name, path in newest.items() if path is Route.TRITON}
    assert triton == {"GLM-5.2 with 1024 picks a row"}
    shared = "DeepSeek V4-Flash with decode context parallelism"
    assert newest[shared] is Route.NONE
    assert {newest[name] for name in set(newest) - triton - {shared}} == {Route.UPSTREAM}
    old = facts(
        versions=versions(vllm="0.20.2"),
        flashinfer=FlashInfer(version="0.6.8", kernels=False, hangs=False),
    )
    with_dcp = {name for name in taken(old, GB10) if "context parallelism" in name}
    for forced, path in ((None, Route.TRITON), (False, Route.NONE)):
        found = taken(old, GB10, forced)
        assert {found[name] for name in set(found) - with_dcp} == {path}
    assert "Nothing can serve DeepSeek V4" in advice_for(old, forced=False)
    assert set(taken(facts(), H100, True).values()) == {Route.UPSTREAM}
    assert choices(facts(versions=versions(vllm=None)), GB10, None) == ()


def test_a_machine_that_cannot_compile_flashinfers_kernels_takes_triton() -> None:
    found = facts(flashinfer_unusable="vLLM uses no FlashInfer here")
    paths = taken(found, GB10)
    assert paths.pop("DeepSeek V4-Flash with decode context parallelism") is Route.NONE
    assert set(paths.values()) == {Route.TRITON}
    assert "flashinfer-cubin: vLLM uses no FlashInfer here" in advice_for(found)


def test_what_flashinfer_compiles_with_is_looked_for_as_vllm_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("VLLM_HAS_FLASHINFER_CUBIN", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if not Path("/usr/local/cuda/bin/nvcc").exists():
        assert "neither nvcc nor flashinfer-cubin" in machine.without_compiler()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n", encoding="utf-8")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert machine.without_compiler() == ""


def test_models_with_the_same_path_are_told_together() -> None:
    (same,) = [line for line in doctor.path_lines(choices(facts(), GB10, None)) if "V3.2" in line]
    assert "DeepSeek V4-Flash, DeepSeek V4-Pro" in same and "speculative" not in same
    table = frozenset({(64, 128), (128, 128)})
    differs = doctor.path_lines(choices(facts(flashinfer_shapes=table), GB10, None))
    (drafts,) = [line for line in differs if "window of 192" in line and "64 heads" in line]
    assert "DeepSeek V4-Flash with speculative decoding" in drafts and ": triton" in drafts


@pytest.mark.parametrize(
    ("vllm", "deep_gemm", "forced", "path", "why"),
    [
        ("0.23.0", (True, True), None, Route.TRITON, "doesn't use DeepGEMM"),
        ("0.24.0+sm12x.1", (True, False), None, Route.TRITON, "has no kernels"),
        ("0.24.0", (True, False), False, Route.NONE, "is 0"),
        ("0.24.0", (False, False), None, Route.TRITON, "isn't installed"),
        ("0.25.1", (True, True), None, Route.UPSTREAM, "has kernels"),
        ("0.27.1", (True, False), None, Route.TRITON, "has no kernels"),
        ("0.28.0", (True, True), None, Route.UPSTREAM, "has kernels"),
        ("0.28.0", (True, False), None, Route.NONE, "from v0.28 on"),
    ],
)
def test_what_stands_in_for_deepgemm_is_told_with_its_reason(
    vllm: str, deep_gemm: tuple[bool, bool], forced: bool | None, path: Route, why: str
) -> None:
    installed, kernels = deep_gemm
    found = facts(
        versions=versions(vllm=vllm), deep_gemm=DeepGemm(installed=installed, kernels=kernels)
    )
    choice = choose_gemm(found, GB10, forced)
    assert choice is not None
    assert choice.path is path and why in choice.why
    assert ("GEMM: nothing can serve them" in advice_for(found, forced)) is (path is Route.NONE)
    text = doctor.report(found, (), choice, ())
    assert f"GEMM: {path.value}, because {choice.why}" in text
    elsewhere = choose_gemm(found, H100, forced)
    assert elsewhere is not None and elsewhere.path is Route.UPSTREAM


def test_without_vllm_no_path_beside_attention_is_told() -> None:
    found = facts(versions=versions(vllm=None))
    assert choose_gemm(found, GB10, None) is None
    assert "Beside attention\n  vLLM isn't installed" in report(found)


def test_every_knob_is_read_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_TRITON_MLA_SPARSE_QUERY_CHUNK_SIZE", "64")
    monkeypatch.setenv("VLLM_SM120_REFERENCE_DEEPSEEK_V4_ATTENTION", "0")
    monkeypatch.setenv("VLLM_TRITON_MLA_SPARSE_HEAD_BLOCK_SIZE", "7")
    monkeypatch.setenv("VLLM_TRITON_MLA_SPARSE_HEAD_BLOCK", "16")
    found = {knob.name: knob for knob in machine.read_knobs()}
    assert set(found) == {v.name for v in envs.VARIABLES + envs.CHANGED}
    query = found["VLLM_TRITON_MLA_SPARSE_QUERY_CHUNK_SIZE"]
    assert (query.value, query.origin, query.problem) == (64, "environment", "")
    path = found["VLLM_TRITON_MLA_SPARSE"]
    assert path.value is False and "VLLM_SM120_REFERENCE" in path.origin
    block = found["VLLM_TRITON_MLA_SPARSE_HEAD_BLOCK_SIZE"]
    assert (block.value, "invalid" in block.origin) == ("automatic", True)
    assert "'7'" in block.problem
    assert found["VLLM_SM12X_PREFETCH"].origin == "default"
    assert machine.unknown_knobs() == ("VLLM_TRITON_MLA_SPARSE_HEAD_BLOCK",)


def test_a_report_says_what_was_not_examined() -> None:
    extension = Extension(name="_C.so", sass=None, ptx=None)
    found = facts(extensions=(extension,), examined=False)
    text = report(found)
    assert "no cuobjdump here" in text and "_C.so: not examined" in text
    assert "_C.so" not in advice_for(found)


def run_module(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_TRITON")}
    env |= {"PYTHONPATH": str(Path(doctor.__file__).parents[3]), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "vllm.sm12x.doctor", *arguments]
    return subprocess.run(command, env=env | environment, capture_output=True, text=True)


def test_without_a_gpu_it_says_so_and_ends_as_the_installation_deserves() -> None:
    """With vLLM's wheel installed these tests have a torch for the CPU, which can't serve."""
    done = run_module()
    assert done.returncode == (8 if "vllm not installed" not in done.stdout else 0), done.stderr
    assert ("vLLM can't serve here" in done.stdout) is (done.returncode == 8)
    assert "no device of capability 12.x" in done.stdout
    for part in ("Versions", "Extensions", "VLLM_SM12X_PREFETCH = auto (default)", "To change"):
        assert part in done.stdout


def test_json_is_one_document_with_everything_in_it() -> None:
    done = run_module("--json", VLLM_TRITON_MLA_SPARSE="maybe")
    document = json.loads(done.stdout)
    stops = any(fault["stops"] for fault in document["faults"])
    assert done.returncode == (8 if stops else 0), done.stderr
    assert document["schema"] == 1 and document["devices"] == []
    assert {field.name for field in dataclasses.fields(Facts)} < set(document)
    assert set(document["deep_gemm"]) == {"installed", "kernels"}
    assert bool(document["gemm_path"]) == (document["versions"]["vllm"] is not None)
    assert bool(document["paths"]) == (document["versions"]["vllm"] is not None)
    assert document["flashinfer_shapes"] is None or document["flashinfer_shapes"]
    assert any("VLLM_TRITON_MLA_SPARSE='maybe'" in advice for advice in document["advice"])


@pytest.mark.parametrize("version", [None, "0.33.0+sm12x.1", "0.26.0"])
def test_a_device_that_is_not_here_can_be_asked_for(tmp_path: Path, version: str | None) -> None:
    """With a vLLM by its metadata alone, and the FlashInfer that v0.33.0 pins."""
    install(tmp_path, "0.7.2.post1")
    if version:
        metadata = tmp_path / f"vllm-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
        metadata.write_text(text, encoding="utf-8")
    # The overlay alone: an installed vllm needs torch to be imported.
    overlay = str(Path(__file__).parents[2] / "overlay" / "vllm")
    done = subprocess.run(
        [sys.executable, "-S", "-m", "vllm.sm12x.doctor", "--device", "12.1", "--json"],
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{overlay}", "PATH": os.environ["PATH"]},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"schema", "device", "paths"}
    assert (document["schema"], document["device"]) == (1, "12.1")
    rows = document["paths"]
    assert all(set(row) == {"model", "speculation", "path", "why"} for row in rows)
    told = {(row["model"], row["speculation"]): row["path"] for row in rows}
    if version is None:
        assert told == {}
    else:
        assert told["DeepSeek V4-Flash", True] == told["DeepSeek V3.2", False] == "upstream"
        newest = version.startswith("0.33")
        assert told["GLM-5.3 (without RoPE)", False] == ("upstream" if newest else "none")


@pytest.mark.parametrize("device", ["12", "sm_121", "12.1a", "", "-1.0", "12.10"])
def test_what_is_no_capability_is_refused_in_one_line(
    device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([f"--device={device}"])
    assert ended.value.code == 2
    assert (
        f"{device!r} is no capability; write it as 12.1" in capsys.readouterr().err.splitlines()[-1]
    )
