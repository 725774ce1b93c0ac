# SPDX-License-Identifier: Apache-2.0
"""Which path is taken, for every release and device that domain facts tell apart."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vllm.sm12x import support
from vllm.sm12x.support import Cache, Choice, Route, decide

TRITON, UPSTREAM, NONE = Route.TRITON, Route.UPSTREAM, Route.NONE

# What the pinned releases bring: a path in vLLM, kernels in FlashInfer, kernels that can hang.
RELEASES = {
    "0.20 - 0.23": {"calls_flashinfer": False, "has_flashinfer_kernels": False},
    "0.24 - 0.25": {"has_flashinfer_kernels": False},
    "0.26 - 0.28": {"flashinfer_hangs": True},
    "0.29 and on": {},
}


def choose(**facts: Any) -> Choice:
    """A choice for V3.2 on GB10 with the newest release, but for what is given."""
    default: dict[str, Any] = {
        "is_cuda": True,
        "capability": (12, 1),
        "forced": None,
        "layout": Cache.V32,
        "index_topk": 2048,
        "rope_dim": 64,
        "calls_flashinfer": True,
        "has_flashinfer_kernels": True,
        "flashinfer_hangs": False,
    }
    return decide(**(default | facts))


@pytest.mark.parametrize("capability", [(12, 0), (12, 1)])
@pytest.mark.parametrize(("model", "topk"), [(Cache.V4, 512), (Cache.V4, 1024), (Cache.V32, 2048)])
@pytest.mark.parametrize(
    ("release", "automatic", "forbidden", "because"),
    [
        ("0.20 - 0.23", TRITON, NONE, "no sparse MLA for SM12x of its own"),
        ("0.24 - 0.25", TRITON, NONE, "no SM12x kernels"),
        ("0.26 - 0.28", TRITON, UPSTREAM, "hang"),
        ("0.29 and on", UPSTREAM, UPSTREAM, "FlashInfer serves"),
    ],
)
def test_each_release_has_a_path_on_sm12x_and_the_knob_moves_it(
    release: str,
    automatic: Route,
    forbidden: Route,
    because: str,
    model: Cache,
    topk: int,
    capability: tuple[int, int],
) -> None:
    facts = RELEASES[release] | {"layout": model, "index_topk": topk, "capability": capability}
    choice = choose(**facts)
    assert choice.path is automatic
    assert because in choice.why and not choice.unexpected
    forced = choose(**facts, forced=True)
    assert (forced.path, forced.why) == (TRITON, f"{support.KNOB} is 1")
    off = choose(**facts, forced=False)
    assert off.path is forbidden and f"{support.KNOB} is 0" in off.why
    assert off.unexpected == (forbidden is NONE)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("model", list(Cache))
@pytest.mark.parametrize(
    ("device", "because"),
    [
        ({"capability": (9, 0)}, "9.0"),
        ({"capability": (10, 0)}, "10.0"),
        ({"capability": (10, 3)}, "10.3"),
        ({"capability": (8, 9)}, "8.9"),
        ({"capability": (11, 0)}, "11.0"),
        ({"capability": None}, "unknown"),
        ({"is_cuda": False}, "isn't CUDA"),  # ROCm has capabilities as well
        ({"is_cuda": False, "capability": None}, "isn't CUDA"),
    ],
)
def test_other_devices_are_upstreams_whatever_is_asked_for(
    device: dict[str, Any], because: str, model: Cache, release: str
) -> None:
    for forced in (None, False, True):
        facts = RELEASES[release] | device | {"layout": model, "index_topk": 64, "rope_dim": 0}
        choice = choose(**facts, forced=forced)
        assert choice.path is UPSTREAM and not choice.triton
        assert because in choice.why
        assert choice.unexpected == (forced is True) == ("no effect" in choice.why)


@pytest.mark.parametrize(
    ("shape", "path", "because"),
    [
        ({"index_topk": 1024}, TRITON, "2048"),
        ({"index_topk": 512}, TRITON, "2048"),
        ({"rope_dim": 0}, TRITON, "without RoPE"),
        ({"index_topk": 2048}, UPSTREAM, "FlashInfer serves"),
        ({"layout": Cache.V4, "index_topk": 1024}, UPSTREAM, "FlashInfer serves"),
        # A RoPE that our kernels don't know: upstream's, or nobody's.
        ({"rope_dim": 32}, UPSTREAM, "no RoPE of 32"),
        ({"rope_dim": 32, "index_topk": 64}, NONE, "no RoPE of 32"),
        ({"rope_dim": 0, "layout": Cache.V4}, NONE, "no RoPE of 0"),
    ],
)
def test_shapes_that_flashinfer_refuses_go_to_triton(
    shape: dict[str, Any], path: Route, because: str
) -> None:
    choice = choose(**shape)
    assert choice.path is path
    assert because in choice.why
    assert choice.unexpected == (path is NONE)


def test_a_forced_path_that_has_no_kernel_is_worth_a_warning() -> None:
    choice = choose(rope_dim=32, forced=True)
    assert choice.path is UPSTREAM and choice.unexpected


@pytest.mark.parametrize(
    ("version", "calls"),
    [
        ("0.20.2", False),
        ("0.23.0+sm12x.1", False),
        ("0.24.0", True),
        ("v0.25.1", True),
        ("0.33.0+sm12x.12", True),
        ("1.0", True),
        ("unknown", False),
    ],
)
def test_vllm_calls_flashinfer_from_024_on(version: str, calls: bool) -> None:
    assert support.calls_flashinfer(version) is calls


TABLE = "import nothing\n_DECODE_DSV4_DISPATCH = frozenset({(8, 128), (64, 128), (64, 192)})\n"


def install(root: Path, version: str | None, *, kernels: bool) -> None:
    """A FlashInfer that mustn't be imported."""
    package = root / "flashinfer"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n", encoding="utf-8")
    if kernels:
        source = package / "data" / "csrc" / "sparse_mla_sm120.cu"
        source.parent.mkdir(parents=True)
        source.touch()
        table = package / "mla" / "_sparse_mla_sm120.py"
        table.parent.mkdir()
        table.write_text(TABLE, encoding="utf-8")
    if version:
        metadata = root / f"flashinfer_python-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(
            f"Metadata-Version: 2.1\nName: flashinfer-python\nVersion: {version}\n",
            encoding="utf-8",
        )


@pytest.mark.parametrize(
    ("version", "kernels", "hangs"),
    [
        ("0.6.8.post1", False, False),
        ("0.6.13", False, False),
        ("0.6.14", True, True),
        ("0.6.16.post3", True, True),
        ("0.6.18", True, False),
        ("0.6.18.post1", True, False),
        ("0.7.2.post1", True, False),
        (None, True, True),
    ],
)
def test_flashinfer_is_judged_by_its_files_and_its_version(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
    kernels: bool,
    hangs: bool,
) -> None:
    install(tmp_path, version, kernels=kernels)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flashinfer", raising=False)
    found = support.find_flashinfer()
    if version is not None:
        assert found.version == version
    assert (found.kernels, found.hangs) == (kernels, hangs)
    shapes = frozenset({(8, 128), (64, 128), (64, 192)}) if kernels else None
    assert support.flashinfer_v4_shapes() == shapes


def test_a_choice_is_said_once_in_one_line(
    monkeypatch: pytest.MonkeyPatch, log_of: Callable[[str], list[logging.LogRecord]]
) -> None:
    monkeypatch.setattr(support, "_said", set())
    log = logging.getLogger("vllm.sm12x.test_support")
    records = log_of(log.name)
    for _ in range(3):
        support.describe_once(choose(forced=True), log)
    support.describe_once(choose(is_cuda=False, forced=True), log)
    support.describe_once(choose(is_cuda=False, forced=True), log)
    first, second = records
    assert first.getMessage() == "Sparse MLA path: Triton, because VLLM_TRITON_MLA_SPARSE is 1."
    assert first.levelno == logging.INFO
    assert second.levelno == logging.WARNING
    assert "upstream's" in second.getMessage() and "no effect" in second.getMessage()
    assert not any("\n" in record.getMessage() for record in records)


def test_the_module_needs_neither_torch_nor_vllm() -> None:
    root = Path(support.__file__).parents[2]
    code = (
        "import sys, types\n"
        "package = types.ModuleType('vllm')\n"
        f"package.__path__ = [{str(root / 'vllm')!r}]\n"
        "sys.modules['vllm'] = package\n"
        "import vllm.sm12x.support\n"
        "print(*[n for n in sys.modules if n.split('.')[0] in ('torch', 'triton', 'flashinfer')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []
