# SPDX-License-Identifier: Apache-2.0
"""What vLLM makes of small models on a device: `python whole_models.py cuda 12 1` prints JSON.

The device is a platform that says so from before vLLM's first import, as on a real one: what a
module binds as it is imported is part of the answer. Configurations come from the classes that a
release reads them with, the engine's configuration and the model from vLLM's own ways to make them.
"""

import importlib
import json
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import devices
import pytest
from conftest import declare_torchvision_operators

SMALL = {
    "vocab_size": 256,
    "hidden_size": 256,
    "num_attention_heads": 8,
    "intermediate_size": 256,
    "moe_intermediate_size": 128,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
}
V4 = {
    "num_key_value_heads": 1,
    "num_hidden_layers": 3,
    "num_hash_layers": 1,
    "quantization_config": FP8 | {"scale_fmt": "ue8m0"},
    "q_lora_rank": 256,
    "o_lora_rank": 128,
    "o_groups": 2,
    "head_dim": 512,
}
DSA = {
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 8,
    "q_lora_rank": 256,
}
# Model: class of its configuration, architecture, what differs from the class's defaults.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "V4-Flash": (
        "DeepseekV4Config", "DeepseekV4ForCausalLM",
        V4 | {"index_topk": 512, "compress_ratios": [0, 4, 128, 0]},
    ),
    "V4-Pro": (
        "DeepseekV4Config", "DeepseekV4ForCausalLM",
        V4 | {"index_topk": 1024, "compress_ratios": [128, 4, 128, 0]},
    ),
    "V4.1-Flash": (
        "DeepseekV41Config",
        "DeepseekV41ForCausalLM",
        V4 | {"compress_ratios": [0, 1, 2]},
    ),
    "V3.2": ("DeepseekV32Config", "DeepseekV32ForCausalLM", DSA),
    "GLM-5.2": ("GlmMoeDsaConfig", "GlmMoeDsaForCausalLM", DSA),
    "GLM-5.3-Flash": ("Glm5NextTextConfig", "Glm5NextForCausalLM", {"num_key_value_heads": 8}),
    "HY V4": ("HYV4Config", "HYV4ForCausalLM", {}),
    "Llama 4": ("Llama4TextConfig", "Llama4ForCausalLM", {}),
}  # fmt: skip


def main() -> None:
    platform, major, minor = sys.argv[1:4]
    device = devices.Device(platform, (int(major), int(minor)))
    patch = pytest.MonkeyPatch()
    declare_torchvision_operators()
    devices.use(device, patch)
    have_extensions(patch)
    # vLLM looks at a model's class in a process of its own, which would have another platform.
    registry = importlib.import_module("vllm.model_executor.models.registry")
    patch.setattr(registry, "_run_in_subprocess", lambda look: look())
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        alone(folder, patch)
        for name in sys.argv[4:] or MODELS:
            try:
                found[name] = describe(name, Path(folder, name.replace(" ", "-")))
            except Exception:
                found[name] = traceback.format_exc()
    print(json.dumps(found, indent=1))


NAMESPACES = ("_C", "_moe_C", "_C_cache_ops", "_C_stable_libtorch", "_vllm_fa2_C", "_vllm_fa3_C")
FLASH_ATTENTION = ("_vllm_fa2_C", "_vllm_fa3_C")


class Operator:
    """An operator of an extension that can't be loaded here: there to be asked for, not to run."""

    def __init__(self, name: str) -> None:
        self.name = self.__name__ = name
        self.default = self

    def __call__(self, *args: Any) -> bool:
        if "support" in self.name:
            return True
        raise NotImplementedError(f"{self.name} needs a GPU")


def have_extensions(patch: pytest.MonkeyPatch) -> None:
    """Let the extensions of a CUDA build seem to be loaded."""
    import torch

    plain = torch._ops._OpNamespace.__getattr__

    def find(namespace: Any, name: str) -> Any:
        try:
            return plain(namespace, name)
        except AttributeError:
            if namespace.name not in NAMESPACES or name.startswith("__"):
                raise
            return Operator(name)

    patch.setattr(torch._ops._OpNamespace, "__getattr__", find)
    register = torch.library.register_fake

    def register_fake(op: Any, *args: Any, **kwargs: Any) -> Any:
        namespace, _, name = str(op).partition("::")
        known = namespace not in NAMESPACES or not isinstance(
            getattr(getattr(torch.ops, namespace), name), Operator
        )
        return register(op, *args, **kwargs) if known else lambda function: function

    patch.setattr(torch.library, "register_fake", register_fake)
    for name in devices.EXTENSIONS:
        patch.setitem(sys.modules, name, ModuleType(name))
    for name in FLASH_ATTENTION:
        patch.setitem(sys.modules, f"vllm.vllm_flash_attn.{name}", ModuleType(name))


def describe(name: str, folder: Path) -> dict[str, Any]:
    """What comes of a model: the engine's configuration, then the model with it."""
    write(name, folder)
    config = configure(folder)
    found: dict[str, Any] = {
        "cache_dtype": config.cache_config.cache_dtype,
        "graphs": str(config.compilation_config.cudagraph_mode),
        "compiled": str(config.compilation_config.mode),
        "architecture": config.model_config.architectures,
    }
    build(config)
    layers = config.compilation_config.static_forward_context
    found["layers"] = {prefix: layer_of(layer, config) for prefix, layer in layers.items()}
    return found


def build(config: Any) -> Any:
    """Make the model on no device: parameters have shapes and no memory."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.utils import initialize_model

    with set_current_vllm_config(config), torch.device("meta"):
        return initialize_model(config)


def layer_of(layer: Any, config: Any) -> list[str]:
    """The class of a layer that has a cache, and its backend."""
    backend = layer.get_attn_backend() if hasattr(layer, "get_attn_backend") else None
    return [named(type(layer)), named(backend)]


def named(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else str(cls)


def alone(folder: str, patch: pytest.MonkeyPatch) -> None:
    """Be the only rank of a group, on a device that nothing is put on."""
    import torch
    from vllm import distributed
    from vllm.config import VllmConfig, set_current_vllm_config

    patch.setattr(torch.cuda, "Stream", lambda *args, **kwargs: None)
    patch.setattr(torch.cuda, "Event", lambda *args, **kwargs: None)
    with set_current_vllm_config(VllmConfig()):
        distributed.init_distributed_environment(
            1, 0, distributed_init_method=f"file://{folder}/group", local_rank=0, backend="gloo"
        )
        distributed.initialize_model_parallel()


def write(name: str, folder: Path) -> None:
    import transformers

    kind, architecture, given = MODELS[name]
    try:
        cls = getattr(transformers, kind)
    except AttributeError:
        from vllm.transformers_utils import configs

        cls = getattr(configs, kind)
    cls(**SMALL | given, architectures=[architecture]).save_pretrained(folder)


def configure(folder: Path, **options: Any) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    args = EngineArgs(
        model=str(folder),
        skip_tokenizer_init=True,
        max_model_len=2048,
        load_format="dummy",
        **options,
    )
    return args.create_engine_config()


if __name__ == "__main__":
    main()
