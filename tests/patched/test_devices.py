# SPDX-License-Identifier: Apache-2.0
"""A device that a test makes leaves nothing behind, whatever comes next."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import devices
import pytest
from packaging.version import Version

PROBE = """
import functools
from vllm.platforms import current_platform
BOUND = current_platform.is_cuda()

@functools.cache
def asked():
    from vllm.platforms import current_platform
    return current_platform.is_cuda()

class Asks:
    @classmethod
    @functools.lru_cache
    def method(cls):
        return asked()

    @staticmethod
    @functools.lru_cache(maxsize=2)
    def function(value):
        return asked()
"""


@pytest.fixture
def probe(base: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of vLLM's that nothing has imported."""
    import vllm

    (tmp_path / "sm12x_probe.py").write_text(PROBE, encoding="utf-8")
    monkeypatch.setattr(vllm, "__path__", [*vllm.__path__, str(tmp_path)])
    monkeypatch.delattr(vllm, "sm12x_probe", raising=False)
    monkeypatch.delitem(sys.modules, "vllm.sm12x_probe", raising=False)
    return "vllm.sm12x_probe"


def answers(module: ModuleType) -> list[bool]:
    return [module.asked(), module.Asks.method(), module.Asks.function(1)]


@pytest.mark.parametrize("imported", ["before", "while the device is there"])
def test_neither_what_is_imported_nor_what_is_remembered_stays(
    probe: str, monkeypatch: pytest.MonkeyPatch, imported: str
) -> None:
    import vllm.platforms

    own = vllm.platforms.current_platform
    if imported == "before":
        assert answers(importlib.import_module(probe)) == [False] * 3
    with monkeypatch.context() as patch:
        platform = devices.use(devices.SM120, patch)
        assert vllm.platforms.current_platform is platform
        module = importlib.import_module(probe)
        assert answers(module) == [True] * 3
        # One device after another, as tests of many do.
        platform = devices.use(devices.Device("cpu", None), patch)
        assert vllm.platforms.current_platform is platform
        assert answers(module) == [False] * 3
        devices.use(devices.SM121, patch)
        assert answers(module) == [True] * 3
    assert vllm.platforms.current_platform is own
    assert module.current_platform is own and not module.BOUND
    assert answers(module) == [False] * 3
    assert not any(isinstance(one, devices.Imports) for one in sys.meta_path)
