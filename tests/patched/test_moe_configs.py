# SPDX-License-Identifier: Apache-2.0
"""The tuned files for fused MoE that the release finds on a DGX Spark."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

pytestmark = pytest.mark.filterwarnings("default")

FOLDER = Path("vllm", "model_executor", "layers", "fused_moe", "configs")
OF_GB10 = "E={},N=512,device_name=NVIDIA_GB10,dtype=fp8_w8a8,block_shape=[128,128].json"
KEYS = {
    "BLOCK_SIZE_M",
    "BLOCK_SIZE_N",
    "BLOCK_SIZE_K",
    "GROUP_SIZE_M",
    "num_warps",
    "num_stages",
}


@pytest.fixture
def find(base: Version, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The release's own look-up, on a device of some name."""
    fused = importlib.import_module("vllm.model_executor.layers.fused_moe.fused_moe")

    def ask(device: str, experts: int, columns: int) -> Any:
        name = device.replace(" ", "_")
        platform = type("Platform", (), {"get_device_name": lambda *_: device})()
        monkeypatch.setattr(fused, "current_platform", platform)
        monkeypatch.setattr(fused, "get_device_name_as_file_name", lambda: name, raising=False)
        fused.get_moe_configs.cache_clear()
        found = fused.get_moe_configs(experts, columns, "fp8_w8a8", 128, 128)
        fused.get_moe_configs.cache_clear()
        return found

    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
    return ask


@pytest.mark.parametrize("experts", [256, 512])
def test_a_spark_finds_its_tiles(find: Any, experts: int) -> None:
    found = find("NVIDIA GB10", experts, 512)
    assert found is not None
    assert {min(found), max(found)} == {1, 4096}
    assert all(set(config) == KEYS for config in found.values())
    # A CTA there has 99 KiB of shared memory: two tiles of a byte a number, in every stage.
    for config in found.values():
        rows = config["BLOCK_SIZE_M"] + config["BLOCK_SIZE_N"]
        assert rows * config["BLOCK_SIZE_K"] * config["num_stages"] <= 99 * 1024


@pytest.mark.parametrize("columns", [384, 512])
def test_an_rtx_pro_6000_finds_upstreams(find: Any, columns: int) -> None:
    assert find("NVIDIA RTX PRO 6000 Blackwell Server Edition", 256, columns)


def test_another_device_and_another_shape_find_none(find: Any) -> None:
    assert find("NVIDIA GB11", 256, 512) is None
    assert find("NVIDIA GB10", 255, 512) is None


@pytest.mark.parametrize("experts", [256, 512])
def test_upstream_has_the_files_from_v0_28_on(
    base: Version, tree: Path, pristine: Path, experts: int
) -> None:
    name = FOLDER / OF_GB10.format(experts)
    assert (pristine / name).is_file() is (base >= Version("0.28"))
    assert json.loads((tree / name).read_text(encoding="utf-8"))["triton_version"] == "3.5.0"
