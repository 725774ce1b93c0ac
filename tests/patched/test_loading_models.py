# SPDX-License-Identifier: Apache-2.0
"""Real model classes get the same parameters from a window and a stream as from a lazy load."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llama4_small import CONFIGS, checkpoint
from packaging.version import Version
from test_llama4_streaming import assert_same, build, by_the_class, load

pytestmark = pytest.mark.filterwarnings("default")
__all__ = ["build"]  # a fixture


@pytest.fixture
def weight_utils(base: Version) -> Any:
    from vllm.model_executor.model_loader import weight_utils

    return weight_utils


def write(folder: Path, weights: dict[str, Any]) -> list[str]:
    from safetensors.torch import save_file

    names = list(weights)
    files = []
    for shard in range(3):
        path = str(folder / f"model-{shard + 1:05}-of-00003.safetensors")
        save_file({name: weights[name].contiguous() for name in names[shard::3]}, path)
        files.append(path)
    return files


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layout", ["fused", "single"])
def test_parameters_are_those_of_a_lazy_load(
    build: Callable[..., Any],
    weight_utils: Any,
    tmp_path: Path,
    name: str,
    layout: str,
) -> None:
    model = build(name)
    files = write(tmp_path, checkpoint(model, layout))

    def weights(way: str) -> Iterator[tuple[str, Any]]:
        found: Iterator[tuple[str, Any]] = weight_utils.safetensors_weights_iterator(
            files, False, way
        )
        return found

    lazy = load(model, by_the_class, weights("lazy"))
    assert not any(value.isnan().any() for value in lazy[1].values())
    for way in ("window", "stream"):
        assert_same(load(model, by_the_class, weights(way)), lazy)
    for way in ("window", "stream"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VLLM_SM12X_LOADING", way)
            threads = weight_utils.multi_thread_safetensors_weights_iterator(files, False)
            assert_same(load(model, by_the_class, threads), lazy)


@pytest.mark.parametrize("ranks", [2, 8])
def test_layers_of_a_rank_take_their_slices_of_a_stream(
    build: Callable[..., Any],
    weight_utils: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
) -> None:
    """vLLM's own linear layers and embedding, of one rank of a tensor-parallel group."""
    import torch
    from safetensors.torch import save_file
    from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.model_executor.layers import linear, vocab_parallel_embedding

    build("Llama4ForCausalLM")  # the process group of one, whose size and rank are then others
    group = parallel_state.get_tp_group()
    monkeypatch.setattr(group, "world_size", ranks)
    monkeypatch.setattr(group, "rank_in_group", ranks - 1)
    for module in (parallel_state, linear, vocab_parallel_embedding):
        for function, value in (
            ("get_tensor_model_parallel_world_size", ranks),
            ("get_tensor_model_parallel_rank", ranks - 1),
        ):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, lambda value=value: value)
    with set_current_vllm_config(VllmConfig(device_config=DeviceConfig(device="cpu"))):
        layers = {
            "column": linear.ColumnParallelLinear(512, 1024, bias=True),
            "row": linear.RowParallelLinear(16384, 256, bias=False),
            "merged": linear.MergedColumnParallelLinear(512, [1024, 1024], bias=False),
            "embedding": vocab_parallel_embedding.VocabParallelEmbedding(1000, 256),
        }
    rng = torch.Generator().manual_seed(7)
    shapes = {
        "column.weight": (1024, 512),
        "column.bias": (1024,),
        "row.weight": (256, 16384),
        "merged.0": (1024, 512),
        "merged.1": (1024, 512),
        "embedding.weight": (1000, 256),
    }
    # Another dtype than the parameters': converted on the way.
    weights = {name: torch.randn(*shape, generator=rng) for name, shape in shapes.items()}
    weights["column.weight"] = weights["column.weight"].bfloat16()
    path = str(tmp_path / "model.safetensors")
    save_file(weights, path)

    def taken(way: str) -> dict[str, Any]:
        for layer in layers.values():
            for parameter in layer.parameters():
                parameter.data.fill_(float("nan"))
        for name, tensor in weight_utils.safetensors_weights_iterator([path], False, way):
            layer, _, part = name.partition(".")
            parameter = layers[layer].weight if part.isdigit() else getattr(layers[layer], part)
            shard = (int(part),) if part.isdigit() else ()
            parameter.weight_loader(parameter, tensor, *shard)
        return {
            f"{name}.{kind}": parameter.detach().clone()
            for name, layer in layers.items()
            for kind, parameter in layer.named_parameters()
        }

    lazy = taken("lazy")
    assert lazy["row.weight"].shape == (256, 16384 // ranks)
    assert not any(value.isnan().any() for value in lazy.values())
    for way in ("window", "stream"):
        assert_same((set(), taken(way)), (set(), lazy))
