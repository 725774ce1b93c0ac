# SPDX-License-Identifier: Apache-2.0
"""What the loader finds out of the device for the policy."""

from types import SimpleNamespace

import pytest
import torch
from vllm.sm12x.loading.gather import weights_share_memory


@pytest.mark.parametrize("integrated", [True, False])
def test_the_memory_of_an_integrated_device_is_the_page_caches_too(
    monkeypatch: pytest.MonkeyPatch, integrated: bool
) -> None:
    devices = [SimpleNamespace(is_integrated=flag) for flag in (not integrated, integrated)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: devices[index])
    assert weights_share_memory() is integrated


def test_a_process_without_cuda_is_not_made_to_start_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", None)
    assert weights_share_memory() is False
