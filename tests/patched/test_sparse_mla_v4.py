# SPDX-License-Identifier: Apache-2.0
"""The attention class of DeepSeek V4 and V4.1: the overlay's on SM12x alone, where it is chosen."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import devices
import pytest
from devices import OTHER_CUDA, SM12X, SM120, Device
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

KNOB = "VLLM_TRITON_MLA_SPARSE"
SINCE = {"deepseek_v4": Version("0.24"), "deepseek_v41": Version("0.30")}
KNOWN = {"qk_rope_head_dim": 64, "sliding_window": 128, "num_attention_heads": 64}
FLASHMLA, FLASHINFER = "DeepseekV4FlashMLAAttention", "DeepseekV4FlashInferSM120Attention"


@pytest.fixture(params=SINCE)
def module(
    request: pytest.FixtureRequest, base: Version, monkeypatch: pytest.MonkeyPatch
) -> ModuleType:
    """The module with a model of the wheel."""
    if base < SINCE[request.param]:
        pytest.skip(f"this release picks no class for {request.param}")
    monkeypatch.delenv(KNOB, raising=False)
    return importlib.import_module(f"vllm.models.{request.param}.nvidia.model")


@pytest.fixture
def attention(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., type[Any]]:
    """Let a layer of the model pick its attention class."""

    def pick(device: Device, backend: str | None = None, heads: int = 64) -> type[Any]:
        from vllm.v1.attention.backends.registry import AttentionBackendEnum

        selected = AttentionBackendEnum[backend] if backend else None
        v41 = "v41" in module.__name__
        config = devices.model(v4=not v41, v41=v41, backend=selected, heads=heads)
        monkeypatch.setattr(module, "current_platform", devices.use(device, monkeypatch))
        if "v41" in module.__name__:
            return picked_by_layer(module, config, monkeypatch)
        chosen: type[Any] = module._select_dsv4_attn_cls(config)
        return chosen

    return pick


def picked_by_layer(
    module: ModuleType, config: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> type[Any]:
    """Build a decoder layer until it makes its attention, and say of which class."""
    made: list[type[Any]] = []

    class Made(Exception):
        pass

    def note(self: Any, *_args: Any, **_kwargs: Any) -> None:
        made.append(type(self))
        raise Made

    for name in (FLASHMLA, FLASHINFER):
        monkeypatch.setattr(getattr(module, name), "__init__", note)
    whole = MagicMock(**vars(config))
    hf = whole.model_config = MagicMock()
    vars(hf.hf_config).update(vars(config.model_config.hf_config), hidden_size=8, rms_norm_eps=1e-6)
    hf.hf_config.configure_mock(engram_layer_ids=[], num_hidden_layers=3)
    hf.hf_text_config = hf.hf_config
    for name in ("get_tensor_model_parallel_world_size", "get_tp_group"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, MagicMock(return_value=1))
    monkeypatch.setattr(module, "_use_sequence_parallel", lambda *_: False)
    with pytest.raises(Made):
        module.DeepseekV4DecoderLayer(whole, "model.layers.1")
    return made[0]


def is_ours(chosen: type[Any], module: ModuleType) -> bool:
    return chosen.__name__ == f"Triton{FLASHMLA}" and issubclass(chosen, getattr(module, FLASHMLA))


@pytest.mark.parametrize("device", SM12X, ids=str)
def test_it_is_ours_where_flashinfer_is_not_installed(
    attention: Callable[..., type[Any]], module: ModuleType, device: Device
) -> None:
    chosen = attention(device)
    assert is_ours(chosen, module)
    assert attention(device) is chosen


@pytest.mark.parametrize("version", ["0.6.18", "0.7.0.post1", "0.7.1", "0.7.2.post1"])
@pytest.mark.parametrize("heads", [8, 64, 128])
def test_it_is_flashinfers_where_that_serves_the_model(
    attention: Callable[..., type[Any]],
    module: ModuleType,
    have_flashinfer: Callable[..., Path],
    version: str,
    heads: int,
) -> None:
    have_flashinfer(version)
    assert attention(SM120, heads=heads) is getattr(module, FLASHINFER)


@pytest.mark.parametrize("version", ["0.6.13", "0.6.14", "0.6.17"])
def test_it_is_ours_where_flashinfers_kernels_are_missing_or_can_hang(
    attention: Callable[..., type[Any]],
    module: ModuleType,
    have_flashinfer: Callable[..., Path],
    version: str,
) -> None:
    have_flashinfer(version)
    assert is_ours(attention(SM120), module)


def test_it_is_ours_where_flashinfer_does_not_import(
    attention: Callable[..., type[Any]], module: ModuleType, have_flashinfer: Callable[..., Path]
) -> None:
    package = have_flashinfer()
    (package / "__init__.py").write_text("raise RuntimeError('of another version')\n")
    assert is_ours(attention(SM120), module)


def test_it_is_ours_for_shapes_that_flashinfer_has_no_kernels_for(
    attention: Callable[..., type[Any]],
    module: ModuleType,
    have_flashinfer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    base: Version,
) -> None:
    from vllm.utils import flashinfer

    if base < Version("0.28"):
        pytest.skip("this release doesn't look at shapes")
    have_flashinfer()
    ask = Mock(return_value=False)
    monkeypatch.setattr(flashinfer, "has_flashinfer_sparse_mla_sm120_config", ask)
    assert is_ours(attention(SM120), module)
    ask.assert_called_once_with(64, 128)


@pytest.mark.parametrize("field", ["sliding_window", "num_attention_heads"])
def test_it_is_upstreams_for_a_configuration_without_the_fields(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    from vllm.sm12x.mla.deepseek_v4 import attention_class

    config = devices.model(v4=True)
    known = {name: value for name, value in KNOWN.items() if name != field}
    hf = SimpleNamespace(**known, compress_ratios=[0, 4], index_topk=512)
    monkeypatch.setattr(config.model_config, "hf_text_config", hf)
    devices.use(SM120, monkeypatch)
    assert attention_class(config, getattr(module, FLASHMLA)) is None


def test_the_knob_forces_and_forbids_it(
    attention: Callable[..., type[Any]],
    module: ModuleType,
    have_flashinfer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    have_flashinfer("0.6.17")
    monkeypatch.setenv(KNOB, "0")
    assert attention(SM120) is getattr(module, FLASHINFER)
    have_flashinfer()
    monkeypatch.setenv(KNOB, "1")
    assert is_ours(attention(SM120), module)


def test_a_backend_that_is_asked_for_is_obeyed(
    attention: Callable[..., type[Any]], module: ModuleType, have_flashinfer: Callable[..., Path]
) -> None:
    have_flashinfer()
    for name in ("FLASHMLA_SPARSE", "FLASHMLA_SPARSE_DSV4"):
        assert is_ours(attention(SM120, name), module)
    have_flashinfer("0.6.17")
    assert attention(SM120, "FLASHINFER_MLA_SPARSE_DSV4") is getattr(module, FLASHINFER)


@pytest.mark.parametrize("device", OTHER_CUDA, ids=str)
@pytest.mark.parametrize("backend", [None, "FLASHMLA_SPARSE_DSV4"])
def test_elsewhere_it_is_upstreams_and_the_overlay_is_not_imported(
    attention: Callable[..., type[Any]],
    module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    device: Device,
    backend: str | None,
) -> None:
    monkeypatch.setenv(KNOB, "1")
    devices.forget_overlay(monkeypatch)
    assert attention(device, backend) is getattr(module, FLASHMLA)
    assert devices.entered() == []


def test_heads_are_not_padded(attention: Callable[..., type[Any]]) -> None:
    chosen = attention(SM120)
    assert [chosen.get_padded_num_q_heads(heads) for heads in (8, 16, 24, 128)] == [8, 16, 24, 128]


def test_the_backend_is_upstreams_but_for_its_builder(
    attention: Callable[..., type[Any]], module: ModuleType
) -> None:
    backend, upstream = attention(SM120).backend_cls, getattr(module, FLASHMLA).backend_cls
    assert issubclass(backend, upstream)
    assert backend.get_name() == upstream.get_name()
    assert issubclass(backend.get_builder_cls(), upstream.get_builder_cls())


def test_builders_compile_the_kernels_of_a_model_once(
    base: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.sm12x.mla import ready

    compiled: list[Any] = []
    monkeypatch.setattr(ready, "_ready", set())
    monkeypatch.setattr(ready, "warm_up", lambda shape, device: compiled.append((shape, device)))

    class Upstream:
        def __init__(self, vllm_config: Any, device: str) -> None:
            self.vllm_config, self.device = vllm_config, device

    builder = ready.compiling(Upstream)
    for _ in range(2):
        assert isinstance(builder(devices.model(), "cuda:1"), Upstream)
    builder(SimpleNamespace(model_config=None), "cuda:1")
    assert [(shape.heads, device) for shape, device in compiled] == [(64, "cuda:1")]


def test_every_kind_of_layer_gets_its_plan(attention: Callable[..., type[Any]]) -> None:
    from vllm.sm12x.mla.deepseek_v4 import add_plans
    from vllm.sm12x.ops.flash_mla import FlashMLASchedMeta

    metadata = SimpleNamespace(num_decodes=1, tile_sched_swaonly=None, tile_sched_c4a=None)
    add_plans(metadata)
    first = metadata.tile_sched_swaonly, metadata.tile_sched_c4a
    assert all(isinstance(plan, FlashMLASchedMeta) for plan in first)
    assert first[0] is not first[1]
    add_plans(metadata)
    assert (metadata.tile_sched_swaonly, metadata.tile_sched_c4a) == first
