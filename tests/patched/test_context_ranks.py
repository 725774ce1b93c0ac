# SPDX-License-Identifier: Apache-2.0
"""Ranks that share contexts against one rank that has them whole, in float64.

Processes run vLLM's own writer of keys, gathering of queries, conversion of picks and merges around
our classes: see context_ranks.py.
"""

import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import context_ranks
import devices
import pytest
from context_ranks import CASES, KERNEL, READ, SCALE, WORLDS, Case, inputs
from devices import SM12X, SM120, Device
from packaging.version import Version
from test_sparse_mla_numbers import check

pytestmark = pytest.mark.filterwarnings("default")

WORKER = Path(__file__).with_name("context_ranks.py")
# The LSE of bfloat16 queries over FP8 keys, as everywhere.
WORST_LSE = 1e-5
BACKEND = "vllm.sm12x.mla.backend.SparseBackend"
FLASHINFER = "vllm.sm12x.mla.flashinfer.SharedBackend"


@pytest.fixture(scope="module")
def found(base: Version, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Any]]:
    """What the ranks of each world have, by the number of ranks."""
    import torch

    if base < Version("0.33"):
        pytest.skip("the processes are written for the classes of v0.33")
    folder = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    failed = [path.read_text(encoding="utf-8") for path in folder.glob("*.txt")]
    assert done.returncode == 0 and not failed, "".join(failed) or done.stderr
    return {
        world: [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]
        for world in WORLDS
    }


def whole(case: Case, world: int) -> tuple[Any, Any]:
    """One rank's answer over whole contexts: output (rows, heads, 512), and LSE without sinks."""
    import torch
    from vllm.sm12x import layouts
    from vllm.sm12x.layouts.scope import Scope
    from vllm.sm12x.reference.decode import sparse_decode

    given = inputs(case, world)
    longest = max(case.lengths)
    cache = layouts.empty_cache(layouts.V32, len(case.lengths), longest, fill=255)
    for request, keys in enumerate(given.keys):
        layouts.pack(cache, request * longest + torch.arange(len(keys)), keys)
    slots = given.picks + (given.requests * longest).unsqueeze(1).int()
    scope = Scope(cache=cache, indices=slots.masked_fill(given.picks < 0, -1))
    out, lse = sparse_decode(
        given.queries, [scope], scale=SCALE, sink=given.sinks, dtype=torch.float64
    )
    return out, lse


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("world", WORLDS)
def test_what_ranks_merge_is_what_one_rank_gives(
    found: dict[int, list[Any]], world: int, case: Case
) -> None:
    import torch

    merged = torch.cat([rank[case.name]["merged"] for rank in found[world]], dim=1)
    assert merged.dtype == torch.bfloat16
    assert not merged.isnan().any()
    check(merged, whole(case, world)[0])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("world", WORLDS)
def test_the_parts_make_up_the_lse_of_the_whole_with_each_sink_once(
    found: dict[int, list[Any]], world: int, case: Case
) -> None:
    import torch

    parts = torch.stack([rank[case.name]["lse"].double() for rank in found[world]])
    if case.path == "flashinfer":
        parts = parts * torch.log(torch.tensor(2.0, dtype=torch.float64))
    expected = whole(case, world)[1].double()
    sinks = inputs(case, world).sinks
    if sinks is not None:
        expected = torch.logaddexp(expected, sinks.double())
    assert torch.allclose(parts.logsumexp(0), expected, atol=WORST_LSE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("world", WORLDS)
def test_a_rank_without_keys_gives_nothing_to_the_merge(
    found: dict[int, list[Any]], world: int, case: Case
) -> None:
    given = inputs(case, world)
    owner = (given.picks // case.turn) % world
    for rank, results in enumerate(found[world]):
        part = results[case.name]
        rows, heads = len(given.picks), case.heads * world
        assert part["out"].shape == (rows, heads, 512) and part["out"].is_contiguous()
        assert part["lse"].shape == (rows, heads)
        empty = ((owner != rank) | (given.picks < 0)).all(1)
        assert not part["out"][empty].any()
        silent = part["lse"][empty]
        if case.sinks:
            own = slice(rank * case.heads, (rank + 1) * case.heads)
            assert (silent[:, own] == given.sinks[own]).all()
            silent[:, own] = -float("inf")
        assert (silent == -float("inf")).all()
        assert part["lse"][~empty].isfinite().all()


@pytest.mark.parametrize("world", WORLDS)
def test_among_the_cases_are_rows_of_which_some_ranks_have_no_key(world: int) -> None:
    def lonely(case: Case) -> int:
        given = inputs(case, world)
        owner = (given.picks // case.turn).masked_fill(given.picks < 0, -1) % world
        owner = owner.masked_fill(given.picks < 0, -1)
        return sum(int((owner != rank).all(1).sum()) for rank in range(world))

    assert {case.name for case in CASES if lonely(case)} >= {
        "short", "short turns", "sinks, short", "all to all, short", "FlashInfer, short",
    }  # fmt: skip


def test_flashinfers_kernel_was_read_in_every_wheel_that_a_base_pins() -> None:
    """What answers for it takes the wheels' own parameters: another is noticed as it is called."""
    pinned = context_ranks.wheels_with_lse()
    assert {takes[KERNEL]["sha256"] for takes in pinned.values()} <= READ
    assert {"0.6.18", "0.7.2.post1"} <= set(pinned)


@pytest.mark.parametrize(
    "moved",
    [
        {"block_tables": "tables"},  # renamed
        {"return_lse=": "return_lse= causal"},  # one more that a caller must give
        {"kv_scale_format=": ""},  # gone
    ],
    ids=["renamed", "new", "gone"],
)
def test_a_parameter_that_moved_in_a_wheel_is_noticed(
    monkeypatch: pytest.MonkeyPatch, moved: dict[str, str]
) -> None:
    name = "trtllm_batch_decode_with_kv_cache_mla"
    pinned = context_ranks.wheels_with_lse()
    names = inspect.signature(context_ranks.flashinfer_answers).parameters
    given = dict.fromkeys(names, 0)

    def answer(**named: Any) -> Any:
        return named

    assert context_ranks.as_published(answer)(**given) == given
    ((old, new),) = moved.items()
    parameters = pinned["0.7.0.post1"][name]["parameters"].split()
    assert old in parameters
    parameters[parameters.index(old)] = new
    pinned["0.7.0.post1"][name]["parameters"] = " ".join(parameters)
    monkeypatch.setattr(context_ranks, "wheels_with_lse", lambda: pinned)
    with pytest.raises(TypeError):
        context_ranks.as_published(answer)(**given)


@pytest.fixture
def select(base: Version, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Ask a CUDA platform of the wheel for the backend of a layer whose contexts ranks share."""
    importlib.import_module("vllm.v1.attention.backends.mla.flashmla_sparse")
    for name in ("VLLM_TRITON_MLA_SPARSE", "VLLM_SM120_REFERENCE_DEEPSEEK_V4_ATTENTION"):
        monkeypatch.delenv(name, raising=False)

    def ask(device: Device = SM120, *, backend: str | None = None, **options: Any) -> str:
        import torch
        from vllm.v1.attention.backends.registry import AttentionBackendEnum
        from vllm.v1.attention.selector import AttentionSelectorConfig

        selected = AttentionBackendEnum[backend] if backend else None
        config = devices.model(backend=selected, index_topk=options.pop("index_topk", 2048))
        config.parallel_config.decode_context_parallel_size = 2
        current = importlib.import_module("vllm.config.vllm")
        monkeypatch.setattr(current, "_current_vllm_config", config)
        layer = {
            "head_size": 576, "dtype": torch.bfloat16, "kv_cache_dtype": "fp8_ds_mla",
            "block_size": None, "use_mla": True, "use_sparse": True,
        }  # fmt: skip
        if "use_dcp" in AttentionSelectorConfig._fields:
            layer["use_dcp"] = True
        platform = devices.use(device, monkeypatch)
        chosen: str = platform.get_attn_backend_cls(
            selected, AttentionSelectorConfig(**(layer | options)), num_heads=32
        )
        return chosen

    return ask


@pytest.mark.parametrize("device", SM12X, ids=str)
@pytest.mark.parametrize("backend", [None, "FLASHINFER_MLA_SPARSE_SM120"])
def test_flashinfers_path_is_taken_with_an_lse(
    base: Version,
    select: Callable[..., str],
    have_flashinfer: Callable[..., Path],
    device: Device,
    backend: str | None,
) -> None:
    if base < Version("0.25"):
        pytest.skip("nobody shares contexts here")
    have_flashinfer()
    assert select(device, backend=backend) == FLASHINFER


@pytest.mark.parametrize(
    "case",
    [{"version": "0.6.17"}, {"index_topk": 1024}, {"backend": "FLASHMLA_SPARSE"}],
    ids=str,
)
def test_triton_is_taken_where_flashinfer_does_not_serve(
    base: Version,
    select: Callable[..., str],
    have_flashinfer: Callable[..., Path],
    case: dict[str, Any],
) -> None:
    if base < Version("0.25"):
        pytest.skip("nobody shares contexts here")
    have_flashinfer(**{name: case[name] for name in ("version",) if name in case})
    assert select(**{name: case[name] for name in case if name != "version"}) == BACKEND


@pytest.mark.parametrize("flashinfer", [False, True])
def test_up_to_v024_a_layer_is_refused_in_one_line(
    base: Version,
    select: Callable[..., str],
    have_flashinfer: Callable[..., Path],
    flashinfer: bool,
) -> None:
    if base >= Version("0.25"):
        pytest.skip("this release's indexer picks from what ranks share")
    if flashinfer:
        have_flashinfer()
    with pytest.raises(ValueError, match=r"Type --decode-context-parallel-size 1\.$") as refused:
        select()
    assert "\n" not in str(refused.value)
    assert "sparse indexer" in str(refused.value)


def test_a_cache_in_bfloat16_is_refused_in_one_line(
    base: Version, select: Callable[..., str], have_flashinfer: Callable[..., Path]
) -> None:
    have_flashinfer()
    with pytest.raises(ValueError, match=r"Type --decode-context-parallel-size 1\.$") as refused:
        select(kv_cache_dtype="bfloat16")
    if base >= Version("0.25"):
        assert "ranks share no bfloat16 cache" in str(refused.value)


@pytest.mark.parametrize("flashinfer", [False, True])
@pytest.mark.parametrize("kind", ["v4", "v32"])
def test_a_configuration_that_nobody_can_serve_is_refused_before_weights_are_loaded(
    base: Version,
    have_flashinfer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    flashinfer: bool,
) -> None:
    if kind == "v32" and base >= Version("0.25"):
        pytest.skip("this release serves it")
    if flashinfer:
        have_flashinfer()
    config_module = importlib.import_module("vllm.sm12x.mla.config")
    devices.use(SM120, monkeypatch)
    config = devices.model(v4=kind == "v4")
    config_module.adjust(config)
    config.parallel_config.decode_context_parallel_size = 4
    with pytest.raises(ValueError, match="--decode-context-parallel-size 4 can't be served"):
        config_module.adjust(config)


@pytest.mark.parametrize("heads", [8, 32, 64])
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_builder_serves_any_number_of_heads(
    base: Version, monkeypatch: pytest.MonkeyPatch, heads: int, ranks: int
) -> None:
    """Upstream's refuses 32 heads of a rank and more, and 64 or more of all."""
    from vllm.sm12x.mla.builder import InPlaceBuilder
    from vllm.v1.attention.backends.mla.flashmla_sparse import FlashMLASparseImpl

    builder = object.__new__(InPlaceBuilder)
    builder.num_heads = heads
    builder.vllm_config = SimpleNamespace(
        attention_config=SimpleNamespace(hisparse_config=None),
        parallel_config=SimpleNamespace(
            decode_context_parallel_size=ranks, prefill_context_parallel_size=1
        ),
    )
    builder.fp8_use_mixed_batch, builder.fp8_decode_padded_heads = False, 64
    assert builder.fp8_use_mixed_batch
    padded = FlashMLASparseImpl._compute_fp8_decode_padded_heads(heads * ranks)
    assert builder.fp8_decode_padded_heads == padded
