# SPDX-License-Identifier: Apache-2.0
"""What the knobs of the Triton path do to its launches; `test_envs` tests how they are read."""

import json
import math
from pathlib import Path
from typing import Any

import interpreted
import pytest
import torch
from vllm.sm12x import layouts
from vllm.sm12x.layouts import V4
from vllm.sm12x.layouts.scope import Scope
from vllm.sm12x.ops import dump
from vllm.sm12x.ops.flash_mla import flash_mla_sparse_fwd, flash_mla_with_kvcache
from vllm.sm12x.reference import decode as reference

decode, tiles = interpreted.kernels("decode", "tiles")

GB10 = tiles.Device(family=tiles.Family.SM121, sms=48, l2_bytes=24 << 20)
PREFIX = "VLLM_TRITON_MLA_SPARSE"


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).bfloat16()


def plan(kernel: str, *, rows: int = 1, heads: int = 64, **limits: int) -> Any:
    chosen = tiles.Limits(**limits)
    return tiles.plan(
        tiles.Kernel[kernel], GB10, rows=rows, heads=heads, widths=[2048], limits=chosen
    )


@pytest.mark.parametrize(
    ("kernel", "heads", "head_block", "blocks"),
    [
        ("DECODE_V4", 64, 1, 4),
        ("DECODE_V4", 64, 4, 4),
        ("DECODE_V4", 64, 16, 4),
        ("DECODE_V4", 64, 32, 2),
        ("DECODE_V4", 8, 32, 1),
        ("DECODE_V32", 64, 32, 4),
        ("PREFILL", 64, 16, 4),
        ("PREFILL", 64, 32, 2),
    ],
)
def test_a_head_block_picks_the_tables_tile_for_so_many_heads(
    kernel: str, heads: int, head_block: int, blocks: int
) -> None:
    found = plan(kernel, heads=heads, head_block=head_block)
    assert found.head_blocks == blocks
    tile = tiles.choose_tile(tiles.Kernel[kernel], GB10.family, head_block)
    assert found.tile == tile


@pytest.mark.parametrize(
    ("entries", "splits"), [(1, 64), (32, 64), (33, 32), (512, 4), (513, 4), (2048, 1), (9999, 1)]
)
@pytest.mark.parametrize("rows", [1, 4096])
def test_a_program_takes_no_more_entries_than_asked_for(
    rows: int, entries: int, splits: int
) -> None:
    # A pass of 256 rows and 64 heads writes 32 MiB a split, and the workspace is 128 MiB.
    most = 3 if rows == 4096 else splits
    assert plan("DECODE_V32", rows=rows, entries=entries).splits == min(splits, most)


def test_batch_invariance_comes_before_a_limit_of_entries() -> None:
    found = tiles.plan(
        tiles.Kernel.DECODE_V4, GB10, rows=1, heads=8, widths=[512], batch_invariant=True,
        limits=tiles.Limits(entries=32),
    )  # fmt: skip
    assert found.splits == 1


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiles.read_limits() == tiles.Limits()
    monkeypatch.setenv(f"{PREFIX}_HEAD_BLOCK_SIZE", "16")
    monkeypatch.setenv(f"{PREFIX}_TOPK_CHUNK_SIZE", "64")
    monkeypatch.setenv(f"{PREFIX}_QUERY_CHUNK_SIZE", "3")
    assert tiles.read_limits() == tiles.Limits(head_block=16, entries=64, rows=3)


@pytest.mark.parametrize("query_chunk", [2, 5])
def test_rows_in_passes_are_the_rows_of_one_call(
    monkeypatch: pytest.MonkeyPatch, query_chunk: int
) -> None:
    monkeypatch.setenv(f"{PREFIX}_TOPK_CHUNK_SIZE", "32")
    monkeypatch.setenv(f"{PREFIX}_QUERY_CHUNK_SIZE", str(query_chunk))
    workspaces = []
    launch = decode._launch

    def watch(*args: Any) -> None:
        workspaces.append(args[-1].out)
        launch(*args)

    monkeypatch.setattr(decode, "_launch", watch)
    cache = layouts.empty_cache(V4, 1, 64, fill=255)
    layouts.pack(cache, torch.arange(64), noise(64, 512))
    indices = (torch.arange(5 * 64).view(5, 64) * 7 % 64).int()
    lengths = torch.tensor([64, 40, 0, 33, 5], dtype=torch.int32)
    scopes = [Scope(cache=cache, indices=indices, lengths=lengths)]
    q, sink = noise(5, 8, 512), torch.linspace(-2, 2, 8)
    # Rows of a larger tensor, so that each pass has to find its own.
    out = torch.full((5, 10, 512), math.nan, dtype=torch.bfloat16)[:, 1:9]
    lse = torch.full((5, 8), math.nan)
    decode.sparse_decode(q, scopes, scale=0.05, sink=sink, out=out, lse=lse)
    expected, expected_lse = reference.sparse_decode(q, scopes, scale=0.05, sink=sink)
    assert (out - expected).norm() <= 5e-3 * expected.norm()
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-5, atol=1e-5)
    assert [len(workspace) for workspace in workspaces] == [query_chunk] * -(-5 // query_chunk)


def call_decode(**changes: Any) -> Any:
    cache = layouts.empty_cache(V4, 2, 64, fill=0).unsqueeze(-2)
    indices = torch.zeros(1, 1, 4, dtype=torch.int32)
    return flash_mla_with_kvcache(
        noise(1, 1, 8, 512), cache, None, None, 512, None, is_fp8_kvcache=True, indices=indices,
        **changes,
    )  # fmt: skip


def call_prefill() -> Any:
    indices = torch.zeros(1, 1, 4, dtype=torch.int32)
    return flash_mla_sparse_fwd(noise(1, 8, 576), noise(9, 1, 576), indices, 0.1)


@pytest.mark.parametrize("call", [call_decode, call_prefill])
def test_a_dump_names_every_argument_and_stops_the_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: Any
) -> None:
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv(f"{PREFIX}_DUMP", "1")
    monkeypatch.setenv(f"{PREFIX}_DUMP_PATH", str(path))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"calls\.jsonl"):
            call()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    first, again = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    operators = {line["operator"] for line in lines}
    assert len(operators) == 1
    assert [line["argument"] for line in first] == [line["argument"] for line in again]
    by_name = {line["argument"]: line for line in first}
    assert {"q", "indices", "attn_sink", "out"} < set(by_name)
    assert by_name["attn_sink"]["value"] is None
    q = by_name["q"]
    assert q["dtype"] == "bfloat16" and len(q["shape"]) == len(q["strides"])


def test_a_page_stride_is_in_the_dump(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv(f"{PREFIX}_DUMP", "1")
    monkeypatch.setenv(f"{PREFIX}_DUMP_PATH", str(path))
    with pytest.raises(RuntimeError):
        call_decode()
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    (cache,) = [line for line in lines if line["argument"] == "k_cache"]
    assert cache["shape"] == [2, 64, 1, 584] and cache["strides"][0] == 37440


def test_without_a_path_the_error_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}_DUMP", "1")
    with pytest.raises(RuntimeError, match=r"are in .*\.jsonl") as raised:
        call_prefill()
    path = Path(str(raised.value).split(" are in ")[1].split(";")[0])
    assert path.read_text(encoding="utf-8").startswith('{"operator": "flash_mla_sparse_fwd"')
    path.unlink()


@pytest.mark.parametrize("place", ["", "absent/calls.jsonl"])
def test_a_file_that_cannot_be_written_is_told_in_one_line_with_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    monkeypatch.setenv(f"{PREFIX}_DUMP", "1")
    monkeypatch.setenv(f"{PREFIX}_DUMP_PATH", str(tmp_path / place))
    with pytest.raises(
        RuntimeError, match=rf"can't be written to {tmp_path}.*_PATH a file"
    ) as said:
        call_prefill()
    assert "\n" not in str(said.value)
    assert "nothing was run" in str(said.value)


def test_nothing_is_dumped_while_a_graph_is_captured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(f"{PREFIX}_DUMP", "1")
    monkeypatch.setattr(dump, "_capturing", lambda: True)
    dump.dump_and_stop("some operator", {"q": noise(1)})
