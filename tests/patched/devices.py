# SPDX-License-Identifier: Apache-2.0
"""Platforms of any capability for vLLM's own code to look at, and files of it loaded under them.

A platform is there for a while, and nothing of it stays: what vLLM remembers is forgotten before
and after, and a module that is first imported meanwhile is imported on the process's own platform,
to which `from vllm.platforms import current_platform` binds it for good.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

# What `vllm/platforms/cuda.py` loads; a build for CUDA doesn't load beside a CPU build of torch.
EXTENSIONS = ("vllm._C", "vllm._C_stable_libtorch", "vllm._qutlass_C")
# What a platform is there instead of.
INSTEAD_OF = "instead_of"
# Packages of the overlay that only a seam on SM12x may import.
ENTERED = ("vllm.sm12x.mla", "vllm.sm12x.ops", "vllm.sm12x.kernels", "vllm.sm12x.support")


@dataclass(frozen=True)
class Device:
    """A device as a platform tells of it."""

    platform: str
    capability: tuple[int, int] | None

    def __str__(self) -> str:
        return f"{self.platform}-{self.capability}"


SM120, SM121 = Device("cuda", (12, 0)), Device("cuda", (12, 1))
SM12X = [SM120, SM121]
# RDNA4 says 12.0 of itself.
OTHERS = [
    Device("cuda", (9, 0)),
    Device("cuda", (10, 0)),
    Device("cuda", (10, 3)),
    Device("cuda", (8, 9)),
    Device("rocm", (12, 0)),
    Device("rocm", (9, 4)),
    Device("cpu", None),
]
OTHER_CUDA = [device for device in OTHERS if device.platform == "cuda"]


@contextmanager
def without_extensions() -> Iterator[None]:
    """Let vLLM's CUDA platform be imported."""
    added = [name for name in EXTENSIONS if name not in sys.modules]
    sys.modules.update({name: ModuleType(name) for name in added})
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def cuda_module() -> ModuleType:
    with without_extensions():
        return importlib.import_module("vllm.platforms.cuda")


def use(device: Device, monkeypatch: pytest.MonkeyPatch, cuda: ModuleType | None = None) -> Any:
    """Make vLLM's platform one on `device` for as long as `monkeypatch` lasts.

    `cuda` is the module of CUDA's platform if it isn't the installed one.
    """
    import vllm.platforms

    own = vllm.platforms.current_platform
    own = vars(type(own)).get(INSTEAD_OF, own)
    forget()
    monkeypatch.setitem(AtTheEnd(), "forget", True)
    monkeypatch.setattr(sys, "meta_path", [Imports(own), *sys.meta_path])
    platform = become(device, monkeypatch, cuda)
    setattr(type(platform), INSTEAD_OF, own)
    return platform


def become(device: Device, monkeypatch: pytest.MonkeyPatch, cuda: ModuleType | None = None) -> Any:
    """Make vLLM's platform one on `device`, for a process of its own: what is imported then binds
    to it, as on a real one.
    """
    import vllm.platforms
    from vllm.platforms.interface import DeviceCapability, Platform, PlatformEnum

    bases = {"cuda": (cuda or cuda_module()).NonNvmlCudaPlatform, "rocm": Platform, "cpu": Platform}
    capability = device.capability and DeviceCapability(*device.capability)
    members = {
        "_enum": PlatformEnum[device.platform.upper()],
        "get_device_capability": classmethod(lambda cls, device_id=0: capability),
        "get_device_name": classmethod(lambda cls, device_id=0: str(device)),
        "num_compute_units": classmethod(lambda cls, device_id=0: 48),
    }
    platform = type("Platform", (bases[device.platform],), members)()
    monkeypatch.setattr(vllm.platforms, "_current_platform", platform)
    return platform


class AtTheEnd(dict[str, bool]):
    """Forgets when its item is taken out, which MonkeyPatch does after it has restored all else."""

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        forget()


class Imports(MetaPathFinder):
    """Finds vLLM's modules, which run on the process's own platform."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith("vllm.") else None
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = OnItsOwn(spec.loader.name, spec.loader.path)
            spec.loader.own = self.own
        return spec


class OnItsOwn(SourceFileLoader):
    """Runs a module while vLLM's platform is the process's own."""

    own: Any

    def exec_module(self, module: ModuleType) -> None:
        import vllm.platforms

        before, vllm.platforms._current_platform = vllm.platforms._current_platform, self.own
        try:
            super().exec_module(module)
        finally:
            vllm.platforms._current_platform = before


def forget() -> None:
    """Empty the caches of vLLM's functions and methods: a platform's answers are in them."""
    for name, module in list(sys.modules.items()):
        # None is how a test says that there is no such module.
        if name.partition(".")[0] == "vllm" and module is not None:
            for value in list(vars(module).values()):
                clear(value)
                if isinstance(value, type) and value.__module__ == name:
                    for member in list(vars(value).values()):
                        clear(getattr(member, "__func__", member))


def clear(function: Any) -> None:
    if isinstance(function, functools._lru_cache_wrapper):
        function.cache_clear()


def load(path: Path, monkeypatch: pytest.MonkeyPatch, package: str = "vllm") -> ModuleType:
    """Run a file of vLLM's as a module of its own."""
    name = f"{package}.copy_of_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look it up there
    with without_extensions():
        spec.loader.exec_module(module)
    return module


def run_again(path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Run another text of the module of this name as a module of its own.

    Operators and layers aren't registered: a process has those of the first text.
    """
    text = path.read_text(encoding="utf-8")
    text = text.replace("direct_register_custom_op(", "(lambda *_, **__: None)(")
    text = text.replace("@CustomOp.register(", "@(lambda *_, **__: lambda one: one)(")
    copy = ModuleType(f"{module}_again")
    copy.__package__ = module.rpartition(".")[0]
    monkeypatch.setitem(sys.modules, copy.__name__, copy)
    exec(compile(text, str(path), "exec"), vars(copy))
    return copy


def forget_overlay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the overlay's modules for SM12x out, so that it shows when a seam imports one."""
    for name in entered():
        monkeypatch.delitem(sys.modules, name)


def entered() -> list[str]:
    """Modules of the overlay that a seam has imported."""
    return [name for name in sys.modules if name.startswith(ENTERED)]


def v4_config(index_topk: int, heads: int) -> Any:
    """V4's configuration as the release has it: of its own class, or of transformers'."""
    known = {"index_topk": index_topk, "num_attention_heads": heads, "sliding_window": 128}
    own = "vllm.transformers_utils.configs.deepseek_v4"
    try:
        module = importlib.import_module(own)
    except ModuleNotFoundError:
        return importlib.import_module("transformers").DeepseekV4Config(**known)
    return module.DeepseekV4Config(
        qk_rope_head_dim=64, compress_ratios=[1, 4, 128], model_type="deepseek_v4", **known
    )


def model(
    *,
    index_topk: int = 2048,
    rope_dim: int = 64,
    v4: bool = False,
    v41: bool = False,
    heads: int = 64,
    backend: Any = None,
    cache_dtype: str = "auto",
    speculative: bool = False,
) -> SimpleNamespace:
    """What the seams read of a configuration, for a model of V3.2's, V4's or V4.1's kind."""
    if v4:
        hf = v4_config(index_topk, heads)
    else:
        hf = SimpleNamespace(
            index_topk=index_topk,
            qk_rope_head_dim=rope_dim,
            qk_nope_head_dim=128,
            v_head_dim=128,
            q_lora_rank=1536,
            num_attention_heads=heads,
            sliding_window=128,
            model_type="deepseek_v41" if v41 else "deepseek_v32",
            **({"compress_ratios": [0, 1, 2]} if v41 else {"kv_lora_rank": 512}),
        )
    return SimpleNamespace(
        model_config=SimpleNamespace(hf_config=hf, hf_text_config=hf, is_mm_prefix_lm=False),
        attention_config=SimpleNamespace(backend=backend, use_non_causal=False),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=1,
            prefill_context_parallel_size=1,
            decode_context_parallel_size=1,
            worker_cls="chosen",
        ),
        compilation_config=SimpleNamespace(
            mode="compiled", cudagraph_mode="captured", cudagraph_capture_sizes=[1, 2, 4, 8]
        ),
        cache_config=SimpleNamespace(cache_dtype=cache_dtype),
        scheduler_config=SimpleNamespace(),
        offload_config=SimpleNamespace(uva=SimpleNamespace(cpu_offload_gb=0)),
        speculative_config=SimpleNamespace(num_speculative_tokens=3) if speculative else None,
    )
