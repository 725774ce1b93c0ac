# SPDX-License-Identifier: Apache-2.0
"""DeepSeek V4 in two stages of a pipeline: the real model on small weights, a rank at a time."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import devices
import pytest
from packaging.version import Version

pytestmark = pytest.mark.filterwarnings("default")

LAYERS, VOCABULARY, WIDTH, STREAMS, EXPERTS = 4, 64, 128, 2, 4
MODULE = "vllm.model_executor.models.deepseek_v4"
MODEL = Path("vllm", "model_executor", "models", "deepseek_v4.py")


def small_config() -> Any:
    """V4's configuration with two layers a stage, the second of each with an indexer."""
    from vllm.transformers_utils.configs.deepseek_v4 import DeepseekV4Config

    return DeepseekV4Config(
        architectures=["DeepseekV4ForCausalLM"],
        compress_ratios=[1, 4] * (LAYERS // 2),
        compress_rope_theta=160000.0,
        expert_dtype="fp8",
        hc_eps=1e-6,
        hc_mult=STREAMS,
        hc_sinkhorn_iters=2,
        head_dim=512,
        hidden_act="silu",
        hidden_size=WIDTH,
        index_head_dim=128,
        index_n_heads=2,
        index_topk=512,
        max_position_embeddings=1024,
        moe_intermediate_size=32,
        n_routed_experts=EXPERTS,
        n_shared_experts=1,
        norm_topk_prob=True,
        num_attention_heads=2,
        num_experts_per_tok=2,
        num_hash_layers=1,
        num_hidden_layers=LAYERS,
        o_groups=2,
        o_lora_rank=32,
        q_lora_rank=32,
        qk_rope_head_dim=64,
        quantization_config={"scale_fmt": "ue8m0"},
        rms_norm_eps=1e-6,
        rope_scaling={"rope_type": "default"},
        sliding_window=128,
        swiglu_limit=10.0,
        vocab_size=VOCABULARY,
    )


@pytest.fixture(scope="module")
def models(base: Version) -> ModuleType:
    """The module of the installed wheel that has the model; later releases have it elsewhere."""
    if not Version("0.20") <= base < Version("0.22"):
        pytest.skip("V4's model is another file on this release, with stages of its own")
    return importlib.import_module(MODULE)


@pytest.fixture
def groups(base: Version, tmp_path: Path) -> Iterator[ModuleType]:
    """Groups of one rank each, which a test then lets say something else."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import parallel_state

    with set_current_vllm_config(VllmConfig()):
        where = f"file://{tmp_path}/store"
        parallel_state.init_distributed_environment(1, 0, where, 0, "gloo")
        parallel_state.initialize_model_parallel(1)
    yield parallel_state
    parallel_state.destroy_model_parallel()
    parallel_state.destroy_distributed_environment()


@pytest.fixture
def build(
    models: ModuleType, groups: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Build the model as one rank of a pipeline does; `module` is the file to take it from."""
    import torch
    from vllm.config import CacheConfig, CompilationMode, VllmConfig, set_current_vllm_config

    # What a GPU has, and tilelang's kernels, which no test environment has.
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda: None)
    monkeypatch.setitem(sys.modules, "vllm.model_executor.layers.mhc", ModuleType("mhc"))

    def make(rank: int, ranks: int, module: ModuleType = models) -> Any:
        stage = SimpleNamespace(
            rank_in_group=rank,
            world_size=ranks,
            is_first_rank=rank == 0,
            is_last_rank=rank == ranks - 1,
        )
        monkeypatch.setattr(groups, "_PP", stage)
        config = VllmConfig()
        # A GPU's platform turns compilation on, and layers then look for compiled operators as
        # they are made. What stages add is traced as one graph below, without the compiler.
        config.compilation_config.mode = CompilationMode.NONE
        config.cache_config = CacheConfig(cache_dtype="fp8", block_size=256)
        hf = small_config()
        config.model_config = SimpleNamespace(
            hf_config=hf, hf_text_config=hf, dtype=torch.bfloat16, max_model_len=1024
        )
        platform = devices.use(devices.SM120, monkeypatch)
        attention = importlib.import_module("vllm.model_executor.layers.deepseek_v4_attention")
        monkeypatch.setattr(attention, "current_platform", platform)
        with set_current_vllm_config(config):
            return module.DeepseekV4ForCausalLM(vllm_config=config, prefix="")

    return make


def checkpoint(whole: Any) -> Iterator[tuple[str, Any]]:
    """The weights of a whole model under the names that a checkpoint has for them."""
    for name, value in whole.named_parameters():
        name = name.removeprefix("model.").replace(
            ".attn.mla_attn.compressor.", ".attn.compressor."
        )
        name = name.replace("shared_experts.down_proj", "shared_experts.w2")
        name = name.replace("gate.e_score_correction_bias", "gate.bias")
        name = {"embed_tokens.weight": "embed.weight", "lm_head.weight": "head.weight"}.get(
            name, name
        )
        if name.endswith("experts.w13_weight"):
            for expert, (gate, up) in enumerate(one.chunk(2) for one in value):
                yield name.replace("w13_weight", f"{expert}.w1.weight"), gate
                yield name.replace("w13_weight", f"{expert}.w3.weight"), up
        elif name.endswith("experts.w2_weight"):
            for expert, one in enumerate(value):
                yield name.replace("w2_weight", f"{expert}.w2.weight"), one
        elif name.endswith("attn_sink"):
            yield name, value[: small_config().num_attention_heads]
        else:
            yield from split(name, value)


def split(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a weight that the model keeps in one."""
    hf = small_config()
    for fused, parts, rows in (
        ("gate_up_proj", ("w1", "w3"), None),
        ("fused_wqa_wkv", ("wq_a", "wkv"), [hf.q_lora_rank, hf.head_dim]),
        ("fused_wkv_wgate", ("wkv", "wgate"), None),
    ):
        if fused in name:
            halves = value.split(rows) if rows else value.chunk(2)
            for part, one in zip(parts, halves, strict=True):
                yield name.replace(fused, part), one
            return
    yield name, value


def test_the_class_says_that_it_can_be_shared_out(base: Version) -> None:
    from vllm.model_executor.models.interfaces import supports_pp

    newer = base >= Version("0.22")
    where = "vllm.models.deepseek_v4.nvidia.model" if newer else MODULE
    assert supports_pp(importlib.import_module(where).DeepseekV4ForCausalLM)


def test_upstreams_does_not(
    models: ModuleType, pristine: Path, base: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.models.interfaces import supports_pp

    copy = devices.run_again(pristine / MODEL, MODULE, monkeypatch)
    assert supports_pp(copy.DeepseekV4ForCausalLM) is (base >= Version("0.21"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stage_has_its_layers_and_its_end_of_the_model(
    build: Callable[..., Any], rank: int
) -> None:
    from vllm.model_executor.models.utils import PPMissingLayer

    stage = build(rank, 2)
    ends = (stage.model.embed_tokens, stage.model.norm, stage.lm_head)
    missing = [isinstance(end, PPMissingLayer) for end in ends]
    assert missing == [rank == 1, rank == 0, rank == 0]
    layers = [isinstance(layer, PPMissingLayer) for layer in stage.model.layers]
    assert layers == [rank == 1] * 2 + [rank == 0] * 2
    # Drafts read the residual where the last layer is.
    buffer = stage.get_mtp_target_hidden_states()
    assert (buffer is None) is (rank == 0)


def test_one_rank_has_all_of_it(build: Callable[..., Any]) -> None:
    from vllm.model_executor.models.utils import PPMissingLayer

    whole = build(0, 1)
    assert not [name for name, one in whole.named_modules() if isinstance(one, PPMissingLayer)]
    assert whole.get_mtp_target_hidden_states() is not None


def test_a_dry_run_gets_every_stream(build: Callable[..., Any]) -> None:
    import torch

    made = build(1, 2).make_empty_intermediate_tensors(3, torch.bfloat16, torch.device("cpu"))
    (streams,) = made.tensors.values()
    assert (streams.shape, streams.dtype) == ((3, STREAMS, WIDTH), torch.bfloat16)
    assert not streams.any()


def test_each_stage_loads_its_part_of_a_checkpoint(
    build: Callable[..., Any], base: Version
) -> None:
    import torch

    if base >= Version("0.21"):
        pytest.skip("upstream's own stages")
    whole = build(0, 1)
    generator = torch.Generator().manual_seed(0)
    for name, value in whole.named_parameters():
        noise = torch.rand(value.shape, generator=generator) * 9
        value.data.copy_(noise.to(value.dtype))
        if name.endswith("attn_sink"):  # as long as FlashMLA's heads
            value.data[small_config().num_attention_heads :] = -torch.inf
    weights, expected = list(checkpoint(whole)), dict(whole.named_parameters())
    held: set[str] = set()
    for rank in (0, 1):
        stage = build(rank, 2)
        own = dict(stage.named_parameters())
        stage.load_weights(iter(weights))
        different = [n for n, value in own.items() if not torch.equal(value, expected[n])]
        assert different == [], f"rank {rank}"
        held |= set(own)
    assert held == set(expected)


@pytest.mark.parametrize("traced", [False, True])
def test_what_a_stage_hands_on_is_what_one_rank_goes_on_with(
    build: Callable[..., Any],
    models: ModuleType,
    base: Version,
    monkeypatch: pytest.MonkeyPatch,
    traced: bool,
) -> None:
    """The model's own forward; its layers, which want a GPU, are simple ones, each another.

    `traced`: as one graph, as vLLM compiles it. What Dynamo can't trace would stop a server.
    """
    import torch
    from vllm.sequence import IntermediateTensors

    if base >= Version("0.21"):
        pytest.skip("upstream's own stages")
    monkeypatch.setattr(models, "hc_head", lambda streams, *rest: streams.sum(1))
    ids, positions = torch.arange(5), torch.arange(5)
    table = torch.linspace(-1, 1, VOCABULARY * WIDTH).view(VOCABULARY, WIDTH).bfloat16()

    def run(rank: int, ranks: int, received: Any) -> Any:
        model = build(rank, ranks).model
        for index in range(model.start_layer, model.end_layer):
            model.layers[index] = Layer(index)
        if rank == 0:
            model.embed_tokens.weight.data.copy_(table)
        if rank == ranks - 1:
            model.norm.forward = lambda one: one
        forward = type(model).forward
        if traced:
            torch._dynamo.reset()
            forward = torch.compile(forward, backend="eager", fullgraph=True)
        return forward(model, ids, positions, received)

    class Layer(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

        def forward(self, streams: Any, positions: Any, input_ids: Any) -> Any:
            shift = torch.arange(STREAMS).view(1, STREAMS, 1) * (self.index + 1)
            return streams * 0.5 + shift.to(streams.dtype)

    handed = run(0, 2, None)
    assert isinstance(handed, IntermediateTensors)
    assert torch.equal(run(1, 2, handed), run(0, 1, None))
