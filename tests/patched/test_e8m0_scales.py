# SPDX-License-Identifier: Apache-2.0
"""A scale parameter starts with a number, whatever memory held and whatever its format is."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import devices
import pytest

pytestmark = pytest.mark.filterwarnings("default")

MODULE = "vllm.model_executor.layers.quantization.utils.fp8_utils"
FILE = Path(*MODULE.split(".")).with_suffix(".py")
KINDS = {
    "BlockQuantScaleParameter": (3, 2),
    "ChannelQuantScaleParameter": (384, 1),
    "PerTensorScaleParameter": (2,),
}


@pytest.fixture
def made(base: object, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Create a scale where all new memory is full of ones."""
    import torch
    from vllm.model_executor import parameter

    for name, value in (("rank", 0), ("world_size", 1)):
        asked = f"get_tensor_model_parallel_{name}"
        monkeypatch.setattr(parameter, asked, lambda value=value: value)

    def create(kind: str, dtype: Any, module: ModuleType | None = None) -> Any:
        fp8_utils = module or importlib.import_module(MODULE)
        empty = torch.empty

        def full(*args: Any, **options: Any) -> Any:
            found = empty(*args, **options)
            found.view(torch.uint8).fill_(255)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", full)
            return fp8_utils.create_fp8_scale_parameter(
                getattr(parameter, kind), [128, 256], 256, [128, 128], None, dtype
            )

    return create


@pytest.mark.parametrize(("kind", "shape"), KINDS.items())
def test_one_in_e8m0_is_the_lowest_number_of_its_format(
    made: Callable[..., Any], kind: str, shape: tuple[int, ...]
) -> None:
    import torch

    scale = made(kind, torch.float8_e8m0fnu)
    assert (scale.shape, scale.dtype) == (shape, torch.float8_e8m0fnu)
    lowest = torch.finfo(torch.float8_e8m0fnu).min
    assert (scale.data.float() == lowest).all()


@pytest.mark.parametrize(("kind", "shape"), KINDS.items())
@pytest.mark.parametrize("named", [True, False])
def test_one_in_float32_is_as_before(
    made: Callable[..., Any], kind: str, shape: tuple[int, ...], named: bool
) -> None:
    import torch

    scale = made(kind, torch.float32 if named else None)
    assert (scale.shape, scale.dtype) == (shape, torch.float32)
    assert (scale.data == torch.finfo(torch.float32).min).all()


def test_upstream_leaves_one_in_e8m0_as_memory_was(
    made: Callable[..., Any], pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    module = devices.run_again(pristine / FILE, MODULE, monkeypatch)
    scale = made("BlockQuantScaleParameter", torch.float8_e8m0fnu, module)
    assert scale.data.float().isnan().all()
