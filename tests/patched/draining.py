# SPDX-License-Identifier: Apache-2.0
"""How much of a checkpoint each model class holds at once: `python draining.py FILE [CLASS ...]`.

Every architecture that the release knows, or those named, is made on the meta device from its own
configuration class, with fewer layers and experts, and its `load_weights` is given an iterator that
counts which of the tensors it gave are still held. Nothing of it is decided by reading code.
"""

import ast
import importlib
import inspect
import json
import re
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import devices
import pytest
import whole_models
from conftest import declare_torchvision_operators

LAYERS, EXPERTS = 4, 8
# Seconds for one class: some read a file from the hub, which isn't there.
PATIENCE = 120
_LAYERS = re.compile(r"^(n|num|encoder|decoder)_?(\w*_)?(layers?|blocks)$|^depth$")
_EXPERTS = re.compile(r"^(n|num|moe_num)_(\w*_)?experts$")


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What a class did with the tensors it was given, whose names are those of its parameters.

    `held`: the most of them that were alive at once. `taken`: how many were copied from.
    `refused`: names that the class has no use for, which were left out.
    """

    given: int
    held: int
    taken: int
    refused: int

    @property
    def drains(self) -> bool:
        return 2 * self.held > self.given


class Counting:
    """Gives tensors of these shapes under these names, and counts those that somebody holds."""

    def __init__(self, shapes: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        self.shapes = shapes
        self.last: list[str] = []
        self.held = 0
        self.ended = False
        self.taken: set[str] = set()
        self._alive: dict[int, tuple[str, Any]] = {}

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        import torch
        from torch.multiprocessing.reductions import StorageWeakRef

        for name, (shape, dtype) in self.shapes.items():
            tensor = torch.empty(shape, dtype=dtype, device="meta")
            storage = tensor.untyped_storage()
            self._alive[storage._cdata] = name, StorageWeakRef(storage)
            del storage
            self._alive = {at: one for at, one in self._alive.items() if not one[1].expired()}
            self.held = max(self.held, len(self._alive))
            self.last = [*self.last[-1:], name]
            yield name, tensor
            del tensor
        self.ended = True

    def note(self, source: Any) -> None:
        """Something is copied from a tensor, maybe one of these."""
        found = self._alive.get(source.untyped_storage()._cdata)
        if found is not None:
            self.taken.add(found[0])


def noting(weights: Counting) -> Any:
    """A mode in which the iterator is told what is copied from."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Copies(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten.copy_.default:
                weights.note(args[1])
            return func(*args, **(kwargs or {}))

    return Copies()


def feed(model: Any) -> Fed:
    """Have a model load tensors with its parameters' names, but for those that it refuses."""
    import torch

    shapes = {name: (tuple(p.shape), p.dtype) for name, p in model.named_parameters()}
    refused: dict[str, str] = {}
    while shapes:
        weights = Counting(shapes)
        try:
            with torch.no_grad(), noting(weights):
                model.load_weights(iter(weights))
        except Exception as error:
            if not weights.ended:
                # A class that looks one name ahead fails at the name before.
                again = repr(error) in list(refused.values())[-1:]
                for name in weights.last[-1 - again :]:
                    if shapes.pop(name, None):
                        refused[name] = repr(error)
                continue
        return Fed(
            given=len(shapes),
            held=weights.held,
            taken=len(weights.taken),
            refused=len(refused),
        )
    raise RuntimeError(f"it refuses all: {list(refused.values())[-1:]}")


# What a checkpoint says and the class has no default for.
SAID: dict[str, dict[str, Any]] = {
    "MiMoV2FlashForCausalLM": {
        "hybrid_layer_pattern": [0, 1, 0, 1],
        "moe_layer_freq": [0, 1, 1, 1],
        "layernorm_epsilon": 1e-5,
        "swa_num_attention_heads": 64,
        "swa_num_key_value_heads": 8,
        "swa_head_dim": 192,
        "swa_v_head_dim": 128,
        "swa_rope_theta": 10000,
        "v_head_dim": 128,
        "sliding_window_size": 128,
        "num_hidden_layers": LAYERS,
    },
}


def configs_of(architecture: str) -> Iterator[Any]:
    """An architecture's configurations to try, small ones, of the class that reads it first."""
    for cls in classes_of(architecture):
        try:
            bare = cls()
            parts = {
                key: part()
                for key, part in getattr(cls, "sub_configs", {}).items()
                # Not AutoConfig, which has no defaults.
                if getattr(bare, key, None) is None and hasattr(part, "model_type")
            }
            given = cls(**parts)
        except Exception:
            continue
        try:
            given = cls(**shrunk(given.to_dict()))
        except Exception:
            given = cls(**parts)
        given.update(SAID.get(architecture, {}))
        yield given


def classes_of(architecture: str) -> list[Any]:
    """The release's own class or transformers', by the architecture's name.

    Where no class goes by that name, those of models that many others are made like.
    """
    from transformers import AutoConfig  # noqa: F401
    from transformers.models.auto import configuration_auto, modeling_auto

    own = importlib.import_module("vllm.transformers_utils.config")._CONFIG_REGISTRY
    kinds: dict[str, str] = {}
    for name, mapping in vars(modeling_auto).items():
        if name.endswith("MAPPING_NAMES"):
            for kind, classes in mapping.items():
                for one in [classes] if isinstance(classes, str) else classes:
                    kinds.setdefault(one, kind)
    stems = {plain(kind): kind for kind in [*configuration_auto.CONFIG_MAPPING_NAMES, *own]}
    found = [kinds[architecture]] if architecture in kinds else []
    stem = plain(architecture)
    alike = [one for one in stems if stem.startswith(one)]
    found += [stems[max(alike, key=len)]] if alike and not found else []
    found += ["llama", "qwen3_moe"]
    return [own[one] if one in own else configuration_auto.CONFIG_MAPPING[one] for one in found]


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def shrunk(described: Any) -> Any:
    """Fewer layers and experts; lists that have an entry a layer are cut as well."""
    if isinstance(described, list):
        return [shrunk(one) for one in described]
    if not isinstance(described, dict):
        return described
    lengths: dict[int, int] = {}
    found: dict[str, Any] = {}
    for key, value in described.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and _LAYERS.match(key) and value > LAYERS:
            lengths[value] = LAYERS
            found[key] = LAYERS
        elif whole and _EXPERTS.match(key) and value > EXPERTS:
            found[key] = EXPERTS
        else:
            found[key] = shrunk(value)
    for key, value in found.items():
        if isinstance(value, list) and len(value) in lengths:
            found[key] = value[: lengths[len(value)]]
    return found


def look(architecture: str, folder: Path) -> dict[str, Any]:
    """Make a class and feed it. Raises what the first way to make it does if there is no way."""
    known = [name for name, (_, one, _) in whole_models.MODELS.items() if one == architecture]
    if known:
        folder.mkdir()
        whole_models.write(known[0], folder)
        return asdict(feed(make(architecture, folder, **whole_models.CACHES.get(known[0], {}))))
    first: Exception | None = None
    for number, config in enumerate(configs_of(architecture)):
        config.architectures = [architecture]
        place = folder.with_name(f"{folder.name}-{number}")
        place.mkdir()
        try:
            config.save_pretrained(place)
            return asdict(feed(make(architecture, place)))
        except Exception as error:
            first = first or error
    raise first or RuntimeError("no configuration has defaults for it")


def make(architecture: str, folder: Path, **options: Any) -> Any:
    """Make a model of a folder's configuration, on no device."""
    config = whole_models.configure(folder, max_model_len=256, **options)
    found = config.model_config.architectures
    if found[0] != architecture:
        raise RuntimeError(f"the release makes {found} of it")
    return whole_models.build(config)


def read(cls: Any) -> bool:
    """Whether a class's load_weights is written so that it may hold all: a hint, no verdict."""
    weights = {"weights", "loaded_weights"}
    for one in cls.__mro__:
        if "load_weights" not in vars(one):
            continue
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(one.load_weights)))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names = {arg.id for arg in node.args if isinstance(arg, ast.Name)}
                if node.func.id in ("list", "dict", "sorted", "tuple") and names & weights:
                    return True
            if isinstance(node, ast.ListComp | ast.DictComp):
                sources = [one.iter for one in node.generators]
                if any(isinstance(s, ast.Name) and s.id in weights for s in sources):
                    return True
        return False
    return False


def late(*_: Any) -> None:
    raise TimeoutError(f"it took more than {PATIENCE} s")


def by_class(registry: Any) -> dict[str, list[str]]:
    """All classes that load weights, by name, and the architectures that they are made for."""
    found: dict[str, list[str]] = {}
    for architecture, model in sorted(registry.ModelRegistry.models.items()):
        found.setdefault(model.class_name, []).append(architecture)
    return found


def result_of(name: str, architectures: list[str], registry: Any, folder: Path) -> Any:
    """What a class held; why it couldn't be made, and whether it reads as if it held all."""
    found = None
    for architecture in sorted(architectures, key=lambda one: one != name):
        signal.alarm(PATIENCE)
        try:
            return look(architecture, folder / architecture)
        except Exception as error:
            lines = str(error).splitlines() or [""]
            found = found or f"{type(error).__name__}: {lines[0][:200]}"
        finally:
            signal.alarm(0)
    try:
        suspect = read(registry.ModelRegistry.models[architectures[0]].load_model_cls())
    except Exception:
        suspect = False
    return {"why_not": found, "suspect": suspect}


def main() -> None:
    patch = pytest.MonkeyPatch()
    declare_torchvision_operators()
    devices.become(devices.SM120, patch)
    whole_models.have_extensions(patch)
    torch = importlib.import_module("torch")
    patch.setattr(torch.cuda, "current_device", lambda: "meta")
    registry = importlib.import_module("vllm.model_executor.models.registry")
    patch.setattr(registry, "_run_in_subprocess", lambda look: look())
    found: dict[str, Any] = {}
    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as folder:
        whole_models.alone(folder, patch)
        for name, architectures in by_class(registry).items():
            if not sys.argv[2:] or name in sys.argv[2:]:
                found[name] = result_of(name, architectures, registry, Path(folder))
                print(name, found[name], file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
