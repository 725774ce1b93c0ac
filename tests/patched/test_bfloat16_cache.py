# SPDX-License-Identifier: Apache-2.0
"""V3.2 with --kv-cache-dtype bfloat16 on SM12x: the real hook of the model's configuration, then
the real platform's, as `VllmConfig` calls them.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import devices
import pytest
from devices import OTHERS, SM12X, SM120, Device
from packaging.version import Version

pytestmark = pytest.mark.filterwarnings("default")

KNOB = "VLLM_TRITON_MLA_SPARSE"
HOOKS = Path("vllm", "model_executor", "models", "config.py")


@pytest.fixture(autouse=True)
def knobs(base: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KNOB, "VLLM_SM120_REFERENCE_DEEPSEEK_V4_ATTENTION"):
        monkeypatch.delenv(name, raising=False)


def configured(
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    cache_dtype: str,
    hooks: ModuleType | None = None,
) -> SimpleNamespace:
    """A V3.2 configuration after the hook of its class and, on CUDA, the platform's."""
    module = hooks or importlib.import_module("vllm.model_executor.models.config")
    config = devices.model(cache_dtype=cache_dtype)
    platform = devices.use(device, monkeypatch)
    module.MODELS_CONFIG_MAP["DeepseekV32ForCausalLM"].verify_and_update_config(config)
    if device.platform == "cuda":
        platform.check_and_update_config(config)
    return config


@pytest.mark.parametrize("device", SM12X, ids=str)
@pytest.mark.parametrize("flashinfer", [False, True])
def test_bfloat16_stays_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    have_flashinfer: Callable[..., Path],
    base: Version,
    device: Device,
    flashinfer: bool,
) -> None:
    if flashinfer:
        have_flashinfer()
    kept = configured(device, monkeypatch, "bfloat16").cache_config.cache_dtype
    assert kept == ("bfloat16" if base >= Version("0.24") else "auto")


def test_upstream_loses_it(monkeypatch: pytest.MonkeyPatch, base: Version, pristine: Path) -> None:
    """What the patch is for: without it the name is gone, and the cache is packed from v0.24 on."""
    hooks = devices.load(pristine / HOOKS, monkeypatch, "vllm.model_executor.models")
    found = configured(SM120, monkeypatch, "bfloat16", hooks).cache_config.cache_dtype
    assert found == ("fp8_ds_mla" if base >= Version("0.24") else "auto")


@pytest.mark.parametrize("asked", ["auto", "fp8", "fp8_ds_mla"])
def test_other_names_are_as_before(
    monkeypatch: pytest.MonkeyPatch, pristine: Path, asked: str
) -> None:
    upstream = devices.load(pristine / HOOKS, monkeypatch, "vllm.model_executor.models")
    found = [
        configured(SM120, monkeypatch, asked, hooks).cache_config.cache_dtype
        for hooks in (None, upstream)
    ]
    assert found[0] == found[1]


def test_with_our_path_forbidden_the_name_is_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KNOB, "0")
    assert configured(SM120, monkeypatch, "bfloat16").cache_config.cache_dtype == "auto"


@pytest.mark.parametrize("device", OTHERS, ids=str)
def test_elsewhere_the_hook_is_upstreams_and_loads_nothing_of_ours(
    monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    devices.forget_overlay(monkeypatch)
    found = configured(device, monkeypatch, "bfloat16")
    assert found.cache_config.cache_dtype == "auto"
    assert devices.entered() == []
