# SPDX-License-Identifier: Apache-2.0
"""A Llama 4 checkpoint goes into the real model classes tensor by tensor, to the same parameters.

The oracle for releases that we patch is the unpatched load_weights, run on the same classes; for
later ones it is upstream's own, given all the weights in a list.
"""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from llama4_small import (
    CHANNELWISE,
    CONFIGS,
    EXPERTS,
    LAYERS,
    MODELOPT,
    Checkpoint,
    DeviceShards,
    PrivateCopies,
    checkpoint,
    is_language,
)
from packaging.version import Version

# Any, not set[str]: vLLM isn't there for the type checker.
Load = Callable[[Any, Iterable[tuple[str, Any]]], Any]


@contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def build(
    base: Version, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Any]]:
    """A small model by class name and quantization; the same one when asked again."""
    import torch
    import vllm.distributed as distributed
    from vllm.config import DeviceConfig, ModelConfig, VllmConfig, set_current_vllm_config
    from vllm.model_executor.models import ModelRegistry, llama4, mllama4

    classes = {"Llama4ForCausalLM": llama4, "Llama4ForConditionalGeneration": mllama4}
    if not hasattr(torch.ops._C, "silu_and_mul"):
        # From v0.26 to v0.30 a layer looks its kernel up even on the CPU; none runs here.
        torch.library.define("_C::silu_and_mul", "(Tensor! result, Tensor input) -> ()")
    for name, module in classes.items():
        # By class and not by name, or the registry imports it again in a subprocess to look at it.
        ModelRegistry.register_model(name, getattr(module, name))

    @cache
    def model(name: str, quantization: str = "none") -> Any:
        folder = tmp_path_factory.mktemp("model")
        scheme = {"none": None, "modelopt": MODELOPT, "channelwise": CHANNELWISE}[quantization]
        config = CONFIGS[name] | ({"quantization_config": scheme} if scheme else {})
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        vllm_config = VllmConfig(
            model_config=ModelConfig(
                model=str(folder),
                skip_tokenizer_init=True,
                max_model_len=128,
                dtype="bfloat16",
                enforce_eager=True,
            ),
            device_config=DeviceConfig(device="cpu"),
        )
        with set_current_vllm_config(vllm_config), default_dtype(torch.bfloat16):
            if not torch.distributed.is_initialized():
                rendezvous = tmp_path_factory.mktemp("group") / "file"
                distributed.init_distributed_environment(1, 0, f"file://{rendezvous}", 0, "gloo")
                distributed.initialize_model_parallel(1, 1)
            return getattr(classes[name], name)(vllm_config=vllm_config)

    yield model
    distributed.parallel_state.destroy_model_parallel()
    distributed.parallel_state.destroy_distributed_environment()


@pytest.fixture(scope="module")
def oracle(base: Version, request: pytest.FixtureRequest) -> Load:
    """Loads all the weights from a list, before v0.24 with upstream's unpatched methods."""
    if base >= Version("0.24"):
        return lambda model, weights: model.load_weights(list(weights))
    folder = request.getfixturevalue("pristine") / "vllm" / "model_executor" / "models"
    language, multimodal = (import_beside(folder / f"{n}.py") for n in ("llama4", "mllama4"))

    def load(model: Any, weights: Iterable[tuple[str, Any]]) -> Any:
        if type(model).__name__ == "Llama4ForCausalLM":
            return language.Llama4ForCausalLM.load_weights(model, weights)
        inner = model.language_model
        inner.load_weights = partial(language.Llama4ForCausalLM.load_weights, inner)
        try:
            return multimodal.Llama4ForConditionalGeneration.load_weights(model, weights)
        finally:
            del inner.load_weights

    return load


def import_beside(path: Path) -> ModuleType:
    """An upstream model file as one more module of its package, so that its imports resolve."""
    spec = importlib.util.spec_from_file_location(
        f"vllm.model_executor.models.pristine_{path.stem}", path
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(model: Any, how: Load, weights: Iterable[tuple[str, Any]]) -> tuple[set[str], Checkpoint]:
    """The names it says it loaded, and copies of all parameters, which were NaN before."""
    import torch

    for parameter in model.parameters():
        parameter.data.copy_(torch.full_like(parameter, float("nan"), dtype=torch.float32))
    names = how(model, weights)
    return names, {name: value.detach().clone() for name, value in model.named_parameters()}


def by_the_class(model: Any, weights: Iterable[tuple[str, Any]]) -> set[str]:
    names: set[str] = model.load_weights(weights)
    return names


def assert_same(left: tuple[set[str], Checkpoint], right: tuple[set[str], Checkpoint]) -> None:
    import torch

    assert left[0] == right[0]
    assert left[1].keys() == right[1].keys()
    for name, value in left[1].items():
        mine, theirs = (one.reshape(-1).view(torch.uint8) for one in (value, right[1][name]))
        assert torch.equal(mine, theirs), name


both_classes = pytest.mark.parametrize("name", CONFIGS)
both_layouts = pytest.mark.parametrize("layout", ["fused", "single"])


@both_classes
@both_layouts
def test_at_most_three_language_weights_are_in_memory(build: Any, name: str, layout: str) -> None:
    model = build(name)
    copies = PrivateCopies(checkpoint(model, layout))
    assert copies.total > 10 * copies.largest
    load(model, by_the_class, copies)
    assert copies.peak <= 3 * copies.largest


@both_classes
@both_layouts
def test_parameters_and_names_are_those_of_a_load_from_a_list(
    build: Any, oracle: Load, name: str, layout: str
) -> None:
    model = build(name)
    weights = checkpoint(model, layout)
    streamed = load(model, by_the_class, PrivateCopies(weights))
    assert streamed[0] == set(streamed[1])
    assert not any(value.isnan().any() for value in streamed[1].values())
    assert_same(streamed, load(model, oracle, weights.items()))


@both_classes
def test_the_language_model_sees_the_checkpoints_order(
    build: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name)
    weights = checkpoint(model, "single")
    inner = getattr(model, "language_model", model).model
    seen: list[str] = []

    def note(weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        for path, weight in weights:
            seen.append(path)
            yield path, weight

    def watch(weights: Iterable[tuple[str, Any]]) -> Any:
        return type(inner).load_weights(inner, note(weights))

    monkeypatch.setitem(inner.__dict__, "load_weights", watch)
    model.load_weights(weights.items())
    paths = [name.removeprefix("language_model.") for name in weights if is_language(name)]
    assert seen == [path.removeprefix("model.") for path in paths if path.startswith("model.")]


def test_a_scale_for_all_experts_is_spread_over_them(build: Any, oracle: Load) -> None:
    import torch

    model = build("Llama4ForConditionalGeneration", "modelopt")
    weights = checkpoint(model, "fused", "modelopt")
    streamed = load(model, by_the_class, PrivateCopies(weights))
    assert_same(streamed, load(model, oracle, weights.items()))
    parts = {
        f".{kind}_{scale}": f"{projection}_{scale}"
        for kind, projection in (("w2", "down_proj"), ("w13", "gate_up_proj"))
        for scale in ("input_scale", "weight_scale")
    }
    for end, projection in parts.items():
        found = [name for name in streamed[1] if name.endswith(end)]
        assert len(found) == LAYERS
        for name in found:
            stem = name.removeprefix("language_model.").partition(".experts.")[0]
            value, given = streamed[1][name], weights[f"{stem}.experts.{projection}"]
            assert torch.equal(value, given.expand_as(value)), name
            assert name in streamed[0]


@both_layouts
def test_scales_of_single_experts_arrive_beside_weights_of_either_layout(
    build: Any, oracle: Load, layout: str
) -> None:
    import torch

    model = build("Llama4ForConditionalGeneration", "channelwise")
    weights = checkpoint(model, layout, "channelwise")
    streamed = load(model, by_the_class, PrivateCopies(weights))
    assert_same(streamed, load(model, oracle, weights.items()))
    found = [name for name in streamed[1] if name.endswith(".w2_weight_scale")]
    assert len(found) == LAYERS
    for name in found:
        stem = name.partition(".experts.")[0]
        given = [weights[f"{stem}.experts.{e}.down_proj.weight_scale"] for e in range(EXPERTS)]
        assert torch.equal(streamed[1][name], torch.stack(given)), name


@pytest.mark.parametrize(
    ("layout", "scales"), [("single", "channelwise"), ("fused", "channelwise fused")]
)
def test_scales_of_more_values_stream_too(
    base: Version, build: Any, layout: str, scales: str
) -> None:
    if base >= Version("0.24"):
        pytest.skip("upstream's own streaming, from v0.24 on, keeps all expert scales back")
    model = build("Llama4ForConditionalGeneration", "channelwise")
    weights = checkpoint(model, layout, scales)
    copies = PrivateCopies(weights, lambda name: name.endswith("_scale"))
    load(model, by_the_class, copies)
    assert copies.peak <= 3 * copies.largest


@pytest.mark.parametrize("absent", ["vision_model", "language_model"])
def test_weights_of_a_stage_that_is_elsewhere_are_dropped(
    build: Any, oracle: Load, absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.models.utils import StageMissingLayer

    model = build("Llama4ForConditionalGeneration")
    weights = checkpoint(model, "fused")
    monkeypatch.setitem(model._modules, absent, StageMissingLayer(absent))
    copies = PrivateCopies(weights, lambda name: name.startswith(absent))
    streamed = load(model, by_the_class, copies)
    assert streamed[0] == set(streamed[1])
    assert not any(name.startswith(absent) for name in streamed[0])
    assert copies.peak <= 3 * copies.largest
    assert_same(streamed, load(model, oracle, weights.items()))


@both_layouts
def test_scales_of_all_experts_arrive_beside_weights_of_either_layout(
    build: Any, oracle: Load, layout: str
) -> None:
    import torch

    model = build("Llama4ForConditionalGeneration", "channelwise")
    weights = checkpoint(model, layout, "channelwise fused")
    streamed = load(model, by_the_class, PrivateCopies(weights))
    assert_same(streamed, load(model, oracle, weights.items()))
    found = [name for name in streamed[1] if name.endswith(".w2_weight_scale")]
    assert len(found) == LAYERS
    for name in found:
        given = weights[f"{name.partition('.experts.')[0]}.experts.down_proj_scale"]
        assert torch.equal(streamed[1][name], given.transpose(1, 2)), name


QUANTIZED = [("none", "none"), ("modelopt", "modelopt"), ("channelwise", "channelwise")]


@both_layouts
@pytest.mark.parametrize(("quantization", "scales"), QUANTIZED)
def test_a_shard_in_the_gpus_memory_is_let_go_and_each_tensor_copied_once(
    base: Version, build: Any, oracle: Load, layout: str, quantization: str, scales: str
) -> None:
    if base >= Version("0.24"):
        pytest.skip("upstream's own streaming, from v0.24 on, keeps vision weights and scales")
    model = build("Llama4ForConditionalGeneration", quantization)
    weights = checkpoint(model, layout, scales)
    shards = DeviceShards(weights)
    assert len(shards.shards) > 3
    with shards.noting():
        streamed = load(model, by_the_class, shards)
    assert_same(streamed, load(model, oracle, weights.items()))
    # The tensor that is being written, and the one that the loader goes on to.
    assert shards.peak <= 2
    for name, uses in shards.used.items():
        if ".q_proj." in name or ".k_proj." in name:
            continue  # upstream permutes their rows
        copies = [use for use in uses if use.startswith("copy_")]
        others = set(uses) - set(copies)
        # A scale that waits is a copy of its own, and is that when it is written.
        assert others <= ({"clone.default"} if "_scale" in name else set()), (name, uses)
        assert copies or "clone.default" in others, name
        # Parts of a fused tensor go to one expert each.
        assert len(copies) <= (2 * EXPERTS if ".experts." in name else 1), (name, uses)


@pytest.mark.parametrize("parallel", ["weights", "data"])
def test_vision_weights_are_those_of_a_load_from_a_list_however_the_tower_is_split(
    build: Any, oracle: Load, parallel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("Llama4ForConditionalGeneration")
    monkeypatch.setattr(model, "use_data_parallel", parallel == "data")
    weights = checkpoint(model, "fused")
    streamed = load(model, by_the_class, PrivateCopies(weights))
    assert any(name.startswith("vision_model.") for name in streamed[0])
    assert streamed[0] == set(streamed[1])
    assert_same(streamed, load(model, oracle, weights.items()))
