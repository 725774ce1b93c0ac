# SPDX-License-Identifier: Apache-2.0
"""What the loader's seam finds out for the policy."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vllm.sm12x.loading.seam import gather


@pytest.mark.parametrize("integrated", [True, False])
def test_the_memory_of_an_integrated_device_is_the_page_caches_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, integrated: bool
) -> None:
    shard = tmp_path / "model.safetensors"
    shard.write_bytes(b"x" * 100)
    devices = [SimpleNamespace(is_integrated=flag) for flag in (not integrated, integrated)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: devices[index])
    assert gather([str(shard)], upstream=False).weights_share_memory is integrated


def test_a_process_without_cuda_is_not_made_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = tmp_path / "model.safetensors"
    shard.write_bytes(b"x")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", None)
    assert gather([str(shard)], upstream=False).weights_share_memory is False
