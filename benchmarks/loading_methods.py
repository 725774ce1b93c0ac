# SPDX-License-Identifier: Apache-2.0
"""Ways to iterate over a checkpoint's tensors: upstream's, ours, and those of other packages."""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import importlib.util
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METHODS = ("lazy", "upstream", "window", "stream", "runai", "fastsafetensors")
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one rank loads. `ready` is called once the rank has said what it needs."""

    files: list[str]
    rank: int
    ranks: int
    drop: bool
    window_bytes: int
    ready: Callable[[], Any]


def tensors(method: str, setting: Setting) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a checkpoint by one of the methods."""
    if method in ("window", "stream"):
        return _ours(method, setting)
    setting.ready()
    match method:
        case "lazy":
            return _lazy(setting.files)
        case "upstream":
            prefetch = upstream_prefetch()
            assert prefetch is not None
            prefetch(setting.files[setting.rank :: setting.ranks])
            return _lazy(setting.files)
        case "runai":
            return _runai(setting.files)
        case "fastsafetensors":
            return _fastsafetensors(setting.files)
        case "policy":
            return _by_policy(setting)
    raise ValueError(f"{method} is none of {', '.join(METHODS)}")


def why_not(method: str) -> str:
    """Why a method can't run here; empty if it can."""
    module = {"runai": "runai_model_streamer", "fastsafetensors": "fastsafetensors"}.get(method)
    if module is not None and importlib.util.find_spec(module) is None:
        return f"{module} isn't installed"
    if method == "upstream" and upstream_prefetch() is None:
        return "no base's sources are at hand: install a wheel, or run python build.py plan"
    return ""


def _lazy(files: list[str]) -> Iterator[tuple[str, Any]]:
    """What upstream's iterator does without a strategy."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, opened.get_tensor(name)


def _ours(method: str, setting: Setting) -> Iterator[tuple[str, Any]]:
    from vllm.sm12x.loading.facts.node import Neighbours
    from vllm.sm12x.loading.files.checkpoint import Checkpoint
    from vllm.sm12x.loading.stream.streamed import Sizes, streamed_tensors
    from vllm.sm12x.loading.window.fill import Shape, Window
    from vllm.sm12x.loading.window.mapped import mapped_tensors

    exact = method == "stream"
    checkpoint = Checkpoint(setting.files, drop=setting.drop or exact, exact=exact)
    checkpoint.hold_all()
    setting.ready()
    if exact:
        return streamed_tensors(checkpoint, Sizes(slots=48 << 20), setting.files)
    shape = Shape(ahead=setting.window_bytes, block=16 << 20, threads=2, by_advice=True)
    neighbours = Neighbours(index=setting.rank, count=setting.ranks)
    window = Window(checkpoint, shape, neighbours=neighbours)
    return mapped_tensors(checkpoint, window, setting.files)


def _by_policy(setting: Setting) -> Iterator[tuple[str, Any]]:
    """What the policy chooses here, its own cost included."""
    from vllm.sm12x.loading.gather import gather
    from vllm.sm12x.loading.policy import Way, decide

    decision = decide(gather(setting.files, None))
    if decision.way is Way.LAZY:
        return _lazy(setting.files)
    return _ours(decision.way.value, setting)


def _runai(files: list[str]) -> Iterator[tuple[str, Any]]:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files)
        yield from streamer.get_tensors()


def _fastsafetensors(files: list[str]) -> Iterator[tuple[str, Any]]:
    from fastsafetensors import SingleGroup
    from fastsafetensors.parallel_loader import ParallelLoader

    loader = ParallelLoader(
        pg=SingleGroup(), hf_weights_files=files, use_tqdm_on_load=False, device="cpu", nogds=True
    )
    try:
        yield from loader.iterate_weights()
    finally:
        loader.close()


def upstream_prefetch() -> Callable[[list[str]], None] | None:
    """Return upstream's function that reads files ahead, compiled from its source alone.

    It is that of the installed wheel, or of the newest pinned base whose sources are in the cache.
    Importing the module would take ten seconds a rank.
    """
    text = _upstream_source()
    if text is None:
        return None
    wanted = ("_prefetch_checkpoint", "_prefetch_all_checkpoints")
    found = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name in wanted]
    names: dict[str, Any] = {
        "asyncio": asyncio,
        "concurrent": concurrent,
        "threading": threading,
        "time": time,
        "torch": importlib.import_module("torch"),
        "logger": logging.getLogger("upstream"),
        "DEFAULT_SAFETENSORS_PREFETCH_NUM_THREADS": 8,
        "DEFAULT_SAFETENSORS_PREFETCH_BLOCK_SIZE": 16 << 20,
    }
    exec(compile(ast.Module(body=list(found), type_ignores=[]), "weight_utils.py", "exec"), names)
    prefetch: Callable[[list[str]], None] = names[wanted[1]]
    return prefetch


def _upstream_source() -> str | None:
    place = "model_executor/model_loader/weight_utils.py"
    spec = importlib.util.find_spec("vllm")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / place).is_file():
            return (Path(folder) / place).read_text(encoding="utf-8")
    return None
