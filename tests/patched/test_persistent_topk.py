# SPDX-License-Identifier: Apache-2.0
"""Which top-k kernel the real indexer calls in a decode step, on devices of several sizes."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import devices
import pytest
from devices import SM12X, SM120, SM121, Device
from packaging.version import Version

pytestmark = pytest.mark.filterwarnings("default")

MODULE = "vllm.model_executor.layers.sparse_attn_indexer"
FILE = Path(*MODULE.split(".")).with_suffix(".py")
KERNELS = ("persistent_topk", "cooperative_topk", "top_k_per_row_decode")
# Bytes of shared memory a CTA may ask for, and SMs.
GB10, RTX_PRO_6000, H100 = (101_376, 48), (101_376, 188), (232_448, 132)
LONGEST = {1: 406_656, 8: 564_864, 9: 1_191_552}  # of rows, by their number, on GB10


@pytest.fixture(scope="module")
def guarded(base: Version) -> Version:
    if base >= Version("0.30"):
        pytest.skip("this release takes the general kernel by itself")
    return base


@pytest.fixture
def kernel_of(guarded: Version, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the indexer's decode step for some rows of logits; return the kernel that it calls."""
    import torch
    from vllm.v1.attention.backends.mla import indexer
    from vllm.v1.worker import workspace

    def run(
        device: Device,
        limits: tuple[int, int],
        *,
        rows: int,
        columns: int,
        pitch: int | None = None,
        topk: int = 2048,
        module: ModuleType | None = None,
    ) -> str:
        called: list[str] = []
        layer = module or importlib.import_module(MODULE)
        properties = SimpleNamespace(
            shared_memory_per_block_optin=limits[0], multi_processor_count=limits[1]
        )
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
        topk_seam = importlib.import_module("vllm.sm12x.seams.topk")
        topk_seam.limits_of.cache_clear()
        for name in KERNELS:
            monkeypatch.setattr(
                torch.ops._C, name, lambda *_, name=name: called.append(name), raising=False
            )
        operations = importlib.import_module("vllm._custom_ops")
        general = "top_k_per_row_decode"
        monkeypatch.setattr(operations, general, lambda *_: called.append(general), raising=False)
        platform = devices.use(device, monkeypatch)
        monkeypatch.setattr(layer, "current_platform", platform)
        monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
        manager = workspace.WorkspaceManager(torch.device("cpu"))
        monkeypatch.setattr(workspace, "_manager", manager)
        logits = torch.empty(rows, pitch or columns, device="meta")[:, :columns]
        monkeypatch.setattr(layer, "fp8_fp4_paged_mqa_logits", lambda *_, **__: logits)
        monkeypatch.setattr(layer, "kv_cache_as_quant_view", lambda cache, *_: cache)
        counts = torch.ones(rows, dtype=torch.int32)
        decode = indexer.DeepSeekV32IndexerDecodeMetadata(
            block_table=counts, seq_lens=counts, decode_lens=counts, requires_padding=False,
            schedule_metadata=counts,
        )  # fmt: skip
        metadata = indexer.DeepseekV32IndexerMetadata(
            seq_lens=counts, max_seq_len=columns, slot_mapping=counts, num_decodes=rows,
            num_decode_tokens=rows, num_prefills=0, num_prefill_tokens=0, decode=decode,
        )  # fmt: skip
        context = SimpleNamespace(attn_metadata={"layer": metadata})
        monkeypatch.setattr(layer, "get_forward_context", lambda: context)
        buffer = torch.zeros(rows, topk, dtype=torch.int32)
        known = {
            "hidden_states": torch.zeros(rows, 4), "k_cache_prefix": "layer",
            "kv_cache": torch.zeros(1), "q_quant": torch.zeros(rows, 2, 128), "q_scale": None,
            "k": None, "weights": torch.zeros(rows, 2), "quant_block_size": 128,
            "scale_fmt": "ue8m0", "topk_tokens": topk, "head_dim": 128, "max_model_len": columns,
            "total_seq_lens": columns, "topk_indices_buffer": buffer, "skip_k_cache_insert": True,
            "use_fp4_cache": False, "dcp_rank": 0, "dcp_world_size": 1,
            "cp_kv_cache_interleave_size": 1,
        }  # fmt: skip
        wanted = layer.sparse_attn_indexer.__code__
        names = wanted.co_varnames[: wanted.co_argcount]
        layer.sparse_attn_indexer(**{name: known[name] for name in names if name in known})
        (kernel,) = called
        return kernel

    return run


@pytest.mark.parametrize("rows", LONGEST)
@pytest.mark.parametrize("device", SM12X, ids=str)
def test_a_row_that_the_device_can_hold_goes_to_the_persistent_kernel(
    kernel_of: Callable[..., str], device: Device, rows: int
) -> None:
    assert kernel_of(device, GB10, rows=rows, columns=LONGEST[rows]) == "persistent_topk"
    assert kernel_of(device, GB10, rows=rows, columns=1000) == "persistent_topk"


@pytest.mark.parametrize("rows", LONGEST)
def test_a_longer_one_goes_to_the_general_kernel(kernel_of: Callable[..., str], rows: int) -> None:
    longer = LONGEST[rows] + 4
    assert kernel_of(SM121, GB10, rows=rows, columns=longer) == "top_k_per_row_decode"


@pytest.mark.parametrize("topk", [512, 1024, 2048])
def test_what_counts_is_how_far_rows_lie_apart(kernel_of: Callable[..., str], topk: int) -> None:
    columns = LONGEST[1]
    found = kernel_of(SM121, GB10, rows=2, columns=columns, pitch=columns + 256, topk=topk)
    assert found == "top_k_per_row_decode"


def test_a_device_with_more_processors_holds_a_million(kernel_of: Callable[..., str]) -> None:
    assert kernel_of(SM120, RTX_PRO_6000, rows=1, columns=1 << 20) == "persistent_topk"
    assert kernel_of(SM120, RTX_PRO_6000, rows=1, columns=1 << 21) == "top_k_per_row_decode"


def test_short_rows_never_wait_for_each_other(kernel_of: Callable[..., str]) -> None:
    """Up to 32,768 numbers one CTA has a whole row, however few processors there are."""
    assert kernel_of(SM121, (101_376, 1), rows=1, columns=32_768) == "persistent_topk"
    assert kernel_of(SM121, (101_376, 1), rows=1, columns=32_772) == "top_k_per_row_decode"


def test_with_enough_shared_memory_there_is_the_other_kernel(
    kernel_of: Callable[..., str],
) -> None:
    assert kernel_of(SM120, (128 * 1024, 4), rows=1, columns=1 << 20) == "persistent_topk"


@pytest.mark.parametrize("capability", [(9, 0), (10, 0)])
def test_elsewhere_the_choice_is_upstreams(
    kernel_of: Callable[..., str],
    pristine: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
) -> None:
    upstream = devices.run_again(pristine / FILE, MODULE, monkeypatch)
    device = Device("cuda", capability)
    for rows in (1, 40):
        shape = {"rows": rows, "columns": 1 << 20}
        expected = kernel_of(device, H100, module=upstream, **shape)
        assert kernel_of(device, H100, **shape) == expected


def test_upstream_takes_a_kernel_that_stops_there(
    kernel_of: Callable[..., str], pristine: Path, base: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = devices.run_again(pristine / FILE, MODULE, monkeypatch)
    clusters = Version("0.24") <= base < Version("0.25")
    found = kernel_of(SM121, GB10, rows=1, columns=1 << 20, module=upstream)
    assert found == ("cooperative_topk" if clusters else "persistent_topk")
    # With more rows it is the persistent kernel in every release.
    found = kernel_of(SM121, GB10, rows=65, columns=1 << 21, module=upstream)
    assert found == "persistent_topk"
