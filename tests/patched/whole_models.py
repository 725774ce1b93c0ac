# SPDX-License-Identifier: Apache-2.0
"""What vLLM makes of small models on a device: `python whole_models.py cuda 12 1 FILE` writes JSON.

The device is a platform that says so from before vLLM's first import, as on a real one: what a
module binds as it is imported is part of the answer. Configurations come from the classes that a
release reads them with, the engine's configuration and the model from vLLM's own ways to make them.
"""

import importlib
import importlib.util
import json
import sys
import tempfile
import traceback
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

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
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "dtype": "bfloat16",
}
FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [128, 128],
}
V4 = {
    "num_nextn_predict_layers": 1,
    "num_key_value_heads": 1,
    "num_hidden_layers": 3,
    "num_hash_layers": 1,
    "quantization_config": FP8 | {"scale_fmt": "ue8m0"},
    "q_lora_rank": 256,
    "o_lora_rank": 128,
    "o_groups": 2,
    "head_dim": 512,
    "qk_rope_head_dim": 64,
    "sliding_window": 128,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 512,
    "hc_mult": 4,
    "hc_eps": 1e-6,
    "hc_sinkhorn_iters": 20,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "swiglu_limit": 10.0,
    "rope_theta": 10000.0,
    "compress_rope_theta": 160000.0,
    "rope_scaling": {
        "type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
        "beta_fast": 32, "beta_slow": 1,
    },
}  # fmt: skip
V41 = V4 | {
    "compress_ratios": [0, 1, 2],
    "kv_source_layer_ids": [1, 2],
    "index_source_layer_ids": [1, 2],
}
DSA = {
    "num_nextn_predict_layers": 1,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 8,
    "q_lora_rank": 256,
}
# Checkpoints say these, and the class has no defaults for them.
GLM53 = {
    "num_hidden_layers": 4,
    "mhc": True,
    "mla_use_nope": True,
    "indexer_rope_interleave": False,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}
# V4 is served so: older releases know no other cache for it.
CACHES = {name: {"kv_cache_dtype": "fp8"} for name in ("V4-Flash", "V4-Pro", "V4.1-Flash")}
DRAFTING = ("V4-Flash", "V3.2")
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
    "V4.1-Flash": ("DeepseekV41Config", "DeepseekV41ForCausalLM", V41),
    "V3.2": ("DeepseekV32Config", "DeepseekV32ForCausalLM", DSA),
    "GLM-5.2": ("GlmMoeDsaConfig", "GlmMoeDsaForCausalLM", DSA),
    "GLM-5.3-Flash": ("Glm5NextTextConfig", "Glm5NextForCausalLM",
        DSA | GLM53,
    ),
    "HY V4": ("HYV4Config", "HYV4ForCausalLM",
        DSA | {"layer_types": ["deepseek_sparse_attention"] * 2},
    ),
    "HY V4 with a dense layer": ("HYV4Config", "HYV4ForCausalLM",
        DSA | {"layer_types": ["full_attention", "deepseek_sparse_attention"]},
    ),
    "Llama 4": ("Llama4TextConfig", "Llama4ForCausalLM", {}),
}  # fmt: skip


def main() -> None:
    platform, major, minor = sys.argv[1:4]
    device = devices.Device(platform, (int(major), int(minor)))
    patch = pytest.MonkeyPatch()
    declare_torchvision_operators()
    devices.become(device, patch)
    have_extensions(patch)
    # vLLM looks at a model's class in a process of its own, which would have another platform.
    registry = importlib.import_module("vllm.model_executor.models.registry")
    patch.setattr(registry, "_run_in_subprocess", lambda look: look())
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        alone(folder, patch)
        known = registry.ModelRegistry.get_supported_archs()
        for name in sys.argv[5:] or MODELS:
            if MODELS[name][1] not in known:
                continue
            try:
                found[name] = describe(name, Path(folder, name.replace(" ", "-")))
            except Exception:
                found[name] = traceback.format_exc()
    Path(sys.argv[4]).write_text(json.dumps(found, indent=1), encoding="utf-8")


NAMESPACES = (
    "_C",
    "_moe_C",
    "_C_cache_ops",
    "_C_stable_libtorch",
    "_vllm_fa2_C",
    "_vllm_fa3_C",
    "_flashkda_C",
)


class Absent(MetaPathFinder, Loader):
    """Packages that model code imports for devices like this, and that aren't installed."""

    NAMES = ("tilelang", "cutlass", "cuda", "quack")

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        top = name.partition(".")[0]
        return ModuleSpec(name, self, is_package=True) if top in self.NAMES else None

    def create_module(self, spec: ModuleSpec) -> Any:
        if spec.name.startswith("cuda"):
            return Bindings(spec.name)
        made = MagicMock()
        made.__path__, made.__spec__, made.__name__ = [], spec, spec.name
        return made

    def exec_module(self, module: Any) -> None:
        pass


class Bindings(ModuleType):
    """CUDA's driver and runtime, as far as its types go: others ask isinstance of them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name.islower():
            return importlib.import_module(f"{self.__name__}.{name}")
        return type(name, (), {})


class Operator:
    """An operator of an extension that can't be loaded here: there to be asked for, not to run."""

    def __init__(self, name: str) -> None:
        self.name = self.__name__ = name
        self.default = self.out = self

    def __call__(self, *args: Any) -> int:
        if "support" in self.name or "size" in self.name:
            return 1
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
    # It takes memory of a device as it is imported. Without it, upstream goes on with the next.
    patch.setitem(sys.modules, "vllm.v1.attention.backends.mla.cutlass_mla", None)
    for name in ("cute", "cute.utils"):  # classes of CUTLASS's language, which isn't here
        patch.setitem(sys.modules, f"vllm.vllm_flash_attn.{name}", MagicMock())
    sys.meta_path.append(Absent())
    # DeepGEMM's extension doesn't load without a driver; whether it is there is what is asked.
    utils = importlib.import_module("vllm.utils.import_utils")
    patch.setattr(utils, "_has_module", lambda name: importlib.util.find_spec(name) is not None)
    vllm = Path(importlib.import_module("vllm").__path__[0])
    for path in vllm.rglob("*.so"):
        name = ".".join(("vllm", *path.relative_to(vllm).parent.parts, path.name.partition(".")[0]))
        patch.setitem(sys.modules, name, ModuleType(name))


def describe(name: str, folder: Path) -> dict[str, Any]:
    """What comes of a model: the engine's configuration, then the model with it."""
    write(name, folder)
    config = configure(folder, **CACHES.get(name, {}))
    found: dict[str, Any] = {
        "cache_dtype": config.cache_config.cache_dtype,
        "graphs": str(config.compilation_config.cudagraph_mode),
        "compiled": str(config.compilation_config.mode),
        "architecture": config.model_config.architectures,
    }
    model = build(config)
    found["model"] = named(type(model))
    layers = config.compilation_config.static_forward_context
    found["layers"] = {prefix: layer_of(layer, config) for prefix, layer in layers.items()}
    found["speculative"] = speculating(name, folder)
    found["imported"] = sorted(devices.entered())
    return found


def speculating(name: str, folder: Path) -> list[str] | None:
    """Mode and graphs with three drafts of the model's own, for models that have such a part."""
    if name not in DRAFTING:
        return None
    drafts = {"method": "mtp", "num_speculative_tokens": 3}
    config = configure(folder, speculative_config=drafts, **CACHES.get(name, {})).compilation_config
    return [str(config.mode), str(config.cudagraph_mode)]


def build(config: Any) -> Any:
    """Make the model on no device: parameters have shapes and no memory."""
    import torch
    from torch.overrides import TorchFunctionMode
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader.utils import initialize_model
    from vllm.utils.torch_utils import set_default_torch_dtype

    class Nowhere(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if "cuda" in str(kwargs.get("device")):
                kwargs["device"] = "meta"
            return function(*args, **kwargs)

    dtype = set_default_torch_dtype(config.model_config.dtype)
    with set_current_vllm_config(config), dtype, torch.device("meta"), Nowhere():
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
    from vllm.v1.worker import workspace

    patch.setattr(torch.accelerator, "empty_cache", lambda: None)
    for name in ("Stream", "Event"):
        patch.setattr(torch.cuda, name, type(name, (), {"__init__": lambda *_, **__: None}))
    with set_current_vllm_config(VllmConfig()):
        distributed.init_distributed_environment(
            1, 0, distributed_init_method=f"file://{folder}/group", local_rank=0, backend="gloo"
        )
        distributed.initialize_model_parallel()
    workspace.init_workspace_manager(torch.device("meta"))


def write(name: str, folder: Path) -> None:
    """Write config.json with the class that reads it: the release's own, or transformers'."""
    kind, architecture, given = MODELS[name]
    given = SMALL | given | {"architectures": [architecture]}
    if kind == "DeepseekV41Config":
        given["text_config"] = given | {"model_type": "deepseek_v41_text"}
    config_class(kind)(**given).save_pretrained(folder)


def config_class(kind: str) -> Any:
    transformers = importlib.import_module("transformers")
    own = importlib.import_module("vllm.transformers_utils.configs")
    return getattr(own, kind, None) or getattr(transformers, kind)


def configure(folder: Path, **options: Any) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    options = {"max_model_len": 2048} | options
    args = EngineArgs(model=str(folder), skip_tokenizer_init=True, load_format="dummy", **options)
    return args.create_engine_config()


if __name__ == "__main__":
    main()
