# SPDX-License-Identifier: Apache-2.0
"""How much of a checkpoint each model class holds at once: `python draining.py FILE [CLASS ...]`.

Every architecture that the release knows, or those named, is made on the meta device from its own
configuration class, with fewer layers and experts, and its `load_weights` is given an iterator that
counts which of the tensors it gave are still held. Nothing of it is decided by reading code.
"""

import importlib
import json
import re
import signal
import sys
import tempfile
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
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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


def config_of(architecture: str) -> Any:
    """An architecture's configuration: small, of the class that the release reads it with."""
    cls = class_of(architecture)
    given = cls()
    parts = {
        key: part()
        for key, part in getattr(cls, "sub_configs", {}).items()
        # Not AutoConfig, which has no defaults.
        if getattr(given, key, None) is None and hasattr(part, "model_type")
    }
    if parts:
        given = cls(**parts)
    described = given.to_dict()
    try:
        return cls(**shrunk(described))
    except Exception:
        return given


def class_of(architecture: str) -> Any:
    """The release's own class or transformers', by the architecture's name."""
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
    kind = kinds.get(architecture)
    if kind is None:
        stem = plain(architecture)
        kind = stems[max((s for s in stems if stem.startswith(s)), key=len)]
    if kind in own:
        return own[kind]
    return configuration_auto.CONFIG_MAPPING[kind]


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
    """Make a class and feed it."""
    folder.mkdir()
    known = [name for name, (_, one, _) in whole_models.MODELS.items() if one == architecture]
    if known:
        whole_models.write(known[0], folder)
    else:
        config = config_of(architecture)
        config.architectures = [architecture]
        config.save_pretrained(folder)
    options = whole_models.CACHES.get(known[0], {}) if known else {}
    config = whole_models.configure(folder, max_model_len=256, **options)
    if config.model_config.architectures[0] != architecture:
        raise RuntimeError(f"the release makes {config.model_config.architectures} of it")
    return asdict(feed(whole_models.build(config)))


def late(*_: Any) -> None:
    raise TimeoutError(f"it took more than {PATIENCE} s")


def main() -> None:
    platform, major, minor = "cuda", 12, 0
    patch = pytest.MonkeyPatch()
    declare_torchvision_operators()
    devices.become(devices.Device(platform, (major, minor)), patch)
    whole_models.have_extensions(patch)
    registry = importlib.import_module("vllm.model_executor.models.registry")
    patch.setattr(registry, "_run_in_subprocess", lambda look: look())
    found: dict[str, Any] = {}
    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as folder:
        whole_models.alone(folder, patch)
        for name in sys.argv[2:] or sorted(registry.ModelRegistry.get_supported_archs()):
            signal.alarm(PATIENCE)
            try:
                found[name] = look(name, Path(folder, name))
            except Exception as error:
                lines = str(error).splitlines() or [""]
                found[name] = f"{type(error).__name__}: {lines[0][:200]}"
            signal.alarm(0)
            print(name, found[name], file=sys.stderr, flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
