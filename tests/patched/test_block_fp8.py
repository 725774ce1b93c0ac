# SPDX-License-Identifier: Apache-2.0
"""The tile that the real function for block-FP8 products launches its kernel with."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import devices
import pytest
from devices import SM12X, SM120, Device

pytestmark = pytest.mark.filterwarnings("default")

MODULE = "vllm.model_executor.layers.quantization.utils.fp8_utils"
FILE = Path(*MODULE.split(".")).with_suffix(".py")
KERNEL = "_w8a8_triton_block_scaled_mm"
ROCM = Device("rocm", (9, 4))
UPSTREAMS = {
    "BLOCK_SIZE_M": 64,
    "BLOCK_SIZE_N": 128,
    "BLOCK_SIZE_K": 128,
    "GROUP_SIZE_M": 32,
    "num_warps": 4,
    "num_stages": 2,
}


@pytest.fixture
def launched(base: object, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, int]]:
    """Call the function for `m` rows; return the keyword arguments of its launch."""
    import torch

    def call(
        m: int,
        device: Device = SM120,
        *,
        tuned: dict[int, dict[str, int]] | None = None,
        module: ModuleType | None = None,
    ) -> dict[str, int]:
        fp8_utils = module or importlib.import_module(MODULE)
        launches: list[dict[str, int]] = []

        class Kernel:
            def __getitem__(self, grid: Callable[..., Any]) -> Callable[..., None]:
                def run(*args: Any, **options: int) -> None:
                    grid(options)
                    launches.append(options)

                return run

        platform = devices.use(device, monkeypatch)
        monkeypatch.setattr(fp8_utils, "current_platform", platform)
        rocm = SimpleNamespace(on_gfx1250=lambda: False)
        monkeypatch.setitem(sys.modules, "vllm.platforms.rocm", rocm)
        monkeypatch.setattr(fp8_utils, KERNEL, Kernel())
        monkeypatch.setattr(fp8_utils, "triton", SimpleNamespace(cdiv=lambda a, b: -(-a // b)))
        monkeypatch.setattr(fp8_utils, "get_w8a8_block_fp8_configs", lambda *a: tuned)
        a, b = torch.zeros(m, 256), torch.zeros(384, 256)
        fp8_utils.w8a8_triton_block_scaled_mm(
            a, b, torch.ones(m, 2), torch.ones(3, 2), [128, 128], torch.bfloat16
        )
        (options,) = launches
        return {name: options[name] for name in UPSTREAMS}

    return call


@pytest.mark.parametrize("device", [*SM12X, Device("cuda", (9, 0))], ids=str)
@pytest.mark.parametrize("m", [1, 7, 8])
def test_few_rows_take_a_tensor_cores_tile_in_three_stages(
    launched: Callable[..., dict[str, int]], device: Device, m: int
) -> None:
    assert launched(m, device) == UPSTREAMS | {"BLOCK_SIZE_M": 16, "num_stages": 3}


@pytest.mark.parametrize("m", [1, 8])
def test_on_rocm_in_two_stages(launched: Callable[..., dict[str, int]], m: int) -> None:
    assert launched(m, ROCM) == UPSTREAMS | {"BLOCK_SIZE_M": 16}


@pytest.mark.parametrize("device", [SM120, ROCM], ids=str)
@pytest.mark.parametrize("m", [9, 64, 4096])
def test_more_rows_take_upstreams_tile(
    launched: Callable[..., dict[str, int]], device: Device, m: int
) -> None:
    assert launched(m, device) == UPSTREAMS


@pytest.mark.parametrize("m", [1, 8, 9])
def test_a_tuned_file_has_the_last_word(launched: Callable[..., dict[str, int]], m: int) -> None:
    tuned = {1: UPSTREAMS | {"num_warps": 8}, 64: UPSTREAMS | {"num_stages": 5}}
    assert launched(m, tuned=tuned) == tuned[1]


@pytest.mark.parametrize("m", [1, 8])
def test_upstream_takes_its_tile_for_any_number_of_rows(
    launched: Callable[..., dict[str, int]],
    pristine: Path,
    monkeypatch: pytest.MonkeyPatch,
    m: int,
) -> None:
    module = devices.run_again(pristine / FILE, MODULE, monkeypatch)
    assert launched(m, module=module) == UPSTREAMS
