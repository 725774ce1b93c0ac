# SPDX-License-Identifier: Apache-2.0
"""The checks of one vLLM release, run from its own source without vLLM, torch or a GPU."""

from __future__ import annotations
import __future__

import abc
import ast
import contextlib
import enum
import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

MLA = "vllm/v1/attention/backends/mla"
SM120 = "FlashInferMLASparseSM120Backend"


def run_what_runs(source: str, names: dict[str, Any]) -> dict[str, Any]:
    """Define what a module does, but for what needs a name that isn't there."""
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.ClassDef, ast.FunctionDef)):
            module = ast.fix_missing_locations(ast.Module([node], []))
            code = compile(module, "upstream", "exec", flags=__future__.annotations.compiler_flag)
            with contextlib.suppress(NameError, AttributeError, TypeError):
                exec(code, names)
    return names


class Release:
    """A release's sources; `read` gives a file's text, None where the release has no such file.

    What it asks of FlashInfer is the package that Python finds as `flashinfer`.
    """

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self.read = read
        self.functions = self._flashinfer_functions()

    def _flashinfer_functions(self) -> dict[str, Any]:
        names: dict[str, Any] = {
            "functools": functools,
            "importlib": importlib,
            "__name__": "builtins",
        }
        run_what_runs(self.read("vllm/utils/flashinfer.py") or "", names)
        names["has_flashinfer"] = lambda: True
        for name, value in list(names.items()):
            if hasattr(value, "cache_clear"):
                names[name] = value.__wrapped__
        return names

    def serves_v4(self, heads: int, window: int) -> bool:
        """Whether its V4 attention would take FlashInfer for this shape."""
        present = self.functions.get("has_flashinfer_sparse_mla_sm120")
        ask = self.functions.get("has_flashinfer_sparse_mla_sm120_config")
        if present is None:
            return False
        return bool(ask(heads, window) if ask else present())

    def objections(self, *, index_topk: int, rope_dim: int) -> list[str]:
        """What its FlashInfer backend for SM12x has against a V3.2 layer."""
        source = self.read(f"{MLA}/flashinfer_mla_sparse.py")
        if source is None or SM120 not in source:
            return ["it has no such backend"]
        backend = self._backend(source)
        hf = SimpleNamespace(index_topk=index_topk, qk_rope_head_dim=rope_dim)
        self._stand_in_for_vllm(hf)
        layer = {
            "head_size": 512 + rope_dim,
            "dtype": "bfloat16",
            "kv_cache_dtype": "fp8_ds_mla",
            "block_size": None,
            "use_mla": True,
            "has_sink": False,
            "use_sparse": True,
            "use_mm_prefix": False,
            "use_per_head_quant_scales": False,
            "device_capability": SimpleNamespace(major=12, minor=1),
            "attn_type": "decoder",
        }
        return list(backend.validate_configuration(**layer))

    def _backend(self, source: str) -> Any:
        names: dict[str, Any] = {
            "ABC": abc.ABC,
            "abstractmethod": abc.abstractmethod,
            "ClassVar": ClassVar,
            "Enum": enum.Enum,
            "enum": enum,
            "torch": SimpleNamespace(bfloat16="bfloat16", float16="float16"),
            "__name__": "builtins",
        }
        run_what_runs(self.read("vllm/v1/attention/backend.py") or "", names)
        run_what_runs(source, names)
        return names[SM120]

    def _stand_in_for_vllm(self, hf: SimpleNamespace) -> None:
        config = SimpleNamespace(model_config=SimpleNamespace(hf_text_config=hf))
        modules = {
            "vllm": {},
            "vllm.config": {"get_current_vllm_config": lambda: config},
            "vllm.utils": {},
            "vllm.utils.flashinfer": self.functions,
        }
        for name, members in modules.items():
            module = ModuleType(name)
            module.__path__ = []
            vars(module).update({k: v for k, v in members.items() if not k.startswith("__")})
            sys.modules[name] = module

    def shares_contexts(self) -> bool:
        """Whether its sparse indexer picks from contexts that ranks share."""
        return "dcp_world_size" in (self.read(f"{MLA}/indexer.py") or "")

    def shares_windows(self) -> bool:
        """Whether its caches of sliding windows, as V4 has them, can be on several ranks."""
        source = self.read("vllm/v1/kv_cache_interface.py") or ""
        return "DCP not support sliding window" not in source

    def arguments(self, path: str, function: str) -> set[str]:
        """What a function takes, by its source."""
        for node in ast.walk(ast.parse(self.read(path) or "")):
            if isinstance(node, ast.FunctionDef) and node.name == function:
                return {each.arg for each in [*node.args.args, *node.args.kwonlyargs]}
        return set()

    def writes_without_rope(self) -> bool:
        """Whether the kernel that writes the packed cache takes keys without a RoPE part."""
        paths = ("csrc/libtorch_stable/cache_kernels.cu", "csrc/cache_kernels.cu")
        source = next(text for text in map(self.read, paths) if text and "fp8_ds_mla" in text)
        return "pe_dim == 64 || pe_dim == 0" in source

    def has_model(self, architecture: str) -> bool:
        return f'"{architecture}"' in (self.read("vllm/model_executor/models/registry.py") or "")
