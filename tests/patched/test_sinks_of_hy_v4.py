# SPDX-License-Identifier: Apache-2.0
"""HY V4 has a logit a head that takes part in the softmax: the real layer hands it to our backend.

Upstream's layer asks the selected backend whether it can, and goes on without sinks where it can't.
What vLLM remembers of a GPU's platform then stays: the tests of whole Llama 4 models come before.
"""

import dataclasses
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import devices
import pytest
from devices import SM12X, SM120, Device
from packaging.version import Version
from test_sparse_mla_numbers import check, filled, functions, hand, noise

pytestmark = pytest.mark.filterwarnings("default")

__all__ = ["functions"]  # a fixture

HEADS, WIDTH, ROWS, SCALE, TOPK = 8, 256, 2, 0.06, 64
SIZES = {"qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 32}


@pytest.fixture(scope="module")
def layers(base: Version) -> ModuleType:
    if base < Version("0.33"):
        pytest.skip("this release has no HY V4")
    importlib.import_module("vllm.v1.attention.backends.mla.flashmla_sparse")
    return importlib.import_module("vllm.models.hy_v4.nvidia.attention")


def configured(cache_dtype: str) -> Any:
    """A real configuration of the real class for the model, by parts: nothing is downloaded."""
    import torch
    from vllm.config import CacheConfig, ModelConfig, VllmConfig
    from vllm.transformers_utils.configs.hy_v4 import HYV4Config

    config = VllmConfig(cache_config=CacheConfig(cache_dtype=cache_dtype))
    model = object.__new__(ModelConfig)
    for field in dataclasses.fields(ModelConfig):
        if field.default is not dataclasses.MISSING:
            object.__setattr__(model, field.name, field.default)
    model.hf_config = model.hf_text_config = HYV4Config(
        architectures=["HYV4ForCausalLM"],
        hidden_size=WIDTH,
        index_topk=TOPK,
        layer_types=["full_attention", "deepseek_sparse_attention"],
        max_position_embeddings=4096,
        num_attention_heads=HEADS,
        num_hidden_layers=2,
        q_lora_rank=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        **SIZES,
    )
    model.dtype, model.max_model_len = torch.bfloat16, 4096
    model.model_arch_config = model.get_model_arch_config()
    config.model_config = model
    config.attention_config.sparse_mla_prefill_workspace_factor = 5
    return config


@pytest.fixture
def make(
    layers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """Make the model's attention layer as one rank of one."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.v1.worker import workspace

    monkeypatch.setitem(sys.modules, "vllm.v1.attention.backends.mla.cutlass_mla", None)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    manager = workspace.WorkspaceManager(torch.device("cpu"))
    monkeypatch.setattr(workspace, "_manager", manager)
    with set_current_vllm_config(configured("auto")):
        where = f"file://{tmp_path}/store"
        parallel_state.init_distributed_environment(1, 0, where, 0, "gloo")
        parallel_state.initialize_model_parallel(1)

    def layer(cache_dtype: str, device: Device = SM120) -> Any:
        config = configured(cache_dtype)
        devices.use(device, monkeypatch)
        hf = config.model_config.hf_config
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with set_current_vllm_config(config):
                return layers.HYV4MLAAttention(
                    vllm_config=config, config=hf, hidden_size=WIDTH, num_heads=HEADS,
                    q_lora_rank=hf.q_lora_rank, kv_lora_rank=hf.kv_lora_rank,
                    max_position_embeddings=4096, cache_config=config.cache_config,
                    prefix="model.layers.1.self_attn",
                    topk_indices_buffer=torch.zeros(16, TOPK, dtype=torch.int32),
                    layer_idx=1, **SIZES,
                )  # fmt: skip
        finally:
            torch.set_default_dtype(before)

    yield layer
    parallel_state.destroy_model_parallel()
    parallel_state.destroy_distributed_environment()


@pytest.mark.parametrize("device", SM12X, ids=str)
@pytest.mark.parametrize("cache_dtype", ["fp8_ds_mla", "bfloat16"])
@pytest.mark.parametrize("flashinfer", [False, True])
def test_the_layer_hands_its_sinks_to_our_implementation(
    make: Callable[..., Any],
    have_flashinfer: Callable[..., Path],
    device: Device,
    cache_dtype: str,
    flashinfer: bool,
) -> None:
    import torch

    if flashinfer:
        have_flashinfer()
    layer = make(cache_dtype, device)
    impl = layer.mla_attn.impl
    assert type(impl).__module__ == "vllm.sm12x.mla.backend"
    assert impl.sinks is layer.learnable_sink_param, "weights are loaded into it later"
    assert impl.sinks.dtype == torch.float32


@pytest.mark.parametrize("has_sinks", [True, False])
def test_flashinfers_path_is_not_taken_for_a_model_with_sinks(
    layers: ModuleType,
    have_flashinfer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    has_sinks: bool,
) -> None:
    from vllm.sm12x.support import route

    have_flashinfer()
    devices.use(SM120, monkeypatch)
    config = configured("fp8_ds_mla")
    config.model_config.hf_config.learnable_sink = has_sinks
    model = route.read_model(config)
    assert model is not None
    choice = route.choose(model, None, ("FLASHMLA_SPARSE",), refusal="")
    assert choice.triton is has_sinks
    assert ("attention sinks" in choice.why) is has_sinks


def sinks() -> Any:
    import torch

    return torch.linspace(-3, 3, HEADS, dtype=torch.float32)


def test_a_packed_cache_is_attended_with_the_sinks(
    make: Callable[..., Any], functions: Any
) -> None:
    import torch
    from vllm.sm12x.layouts import V32
    from vllm.sm12x.layouts.scope import Scope
    from vllm.sm12x.reference import decode

    layer = make("fp8_ds_mla")
    layer.learnable_sink_param.data.copy_(sinks())
    impl = layer.mla_attn.impl
    cache, q = filled(V32, 2, 64), noise(ROWS, HEADS, V32.head_dim)
    picks = torch.randint(0, 120, (ROWS, TOPK), dtype=torch.int32)
    plan = SimpleNamespace(
        dummy_block_table=None,
        cache_lens=None,
        scheduler_metadata=functions.get_mla_metadata()[0],
    )
    out, _ = impl._fp8_flash_mla_kernel(q.unsqueeze(0), cache, picks.unsqueeze(0), plan)
    expected, _ = decode.sparse_decode(
        q, [Scope(cache=cache, indices=picks)], scale=impl.softmax_scale, sink=sinks(),
        dtype=torch.float64,
    )  # fmt: skip
    check(out[0], expected)


@pytest.mark.parametrize("lengths", [None, [TOPK, 5]])
def test_a_cache_in_bfloat16_is_attended_with_the_sinks(
    make: Callable[..., Any],
    functions: Any,
    lengths: list[int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from vllm.sm12x.mla import backend
    from vllm.sm12x.reference import prefill

    hand(backend, functions, monkeypatch)
    layer = make("bfloat16")
    layer.learnable_sink_param.data.copy_(sinks())
    impl = layer.mla_attn.impl
    kv, q = noise(2, 64, 576), noise(ROWS, HEADS, 576)
    picks = torch.randint(0, 128, (ROWS, TOPK), dtype=torch.int32)
    counts = None if lengths is None else torch.tensor(lengths, dtype=torch.int32)
    out, lse = impl._bf16_flash_mla_kernel(q, kv, picks, counts, HEADS)
    expected = prefill.sparse_prefill(
        q, kv.flatten(0, 1), picks, scale=impl.softmax_scale, sink=sinks(), lengths=counts,
        dtype=torch.float64,
    )  # fmt: skip
    check(out, expected[0])
    assert lse.shape == (ROWS, HEADS)


def test_prompts_that_ranks_share_beside_contexts_are_refused(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.distributed import parallel_state
    from vllm.sm12x.mla import backend

    monkeypatch.setattr(parallel_state, "get_dcp_world_size_and_rank", lambda _: (2, 0))
    monkeypatch.setattr(backend, "reads_in_place", lambda config: False)
    with pytest.raises(NotImplementedError, match="--prefill-context-parallel-size 1"):
        make("fp8_ds_mla")


@pytest.mark.parametrize(
    ("shape", "dtype"), [((HEADS + 1,), "float32"), ((1, HEADS), "float32"), ((HEADS,), "bfloat16")]
)
def test_sinks_of_another_form_are_refused(
    layers: ModuleType, shape: tuple[int, ...], dtype: str
) -> None:
    import torch
    from vllm.sm12x.mla.backend import check_sinks

    with pytest.raises(ValueError, match=r"expected \(8,\) torch.float32"):
        check_sinks(torch.zeros(shape, dtype=getattr(torch, dtype)), HEADS)
