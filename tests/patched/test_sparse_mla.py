# SPDX-License-Identifier: Apache-2.0
"""Sparse MLA of the real modules: the overlay's on SM12x alone, upstream's everywhere else."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import devices
import pytest
from devices import OTHER_CUDA, OTHERS, SM12X, SM120, Device
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

KNOB, GRAPHS = "VLLM_TRITON_MLA_SPARSE", "VLLM_TRITON_MLA_SPARSE_ALLOW_CUDAGRAPH"
OURS = "vllm.sm12x.mla.backend.SparseBackend"
FLASHINFER_MODULE = "vllm.v1.attention.backends.mla.flashinfer_mla_sparse."
FLASHINFER = "FlashInferMLASparseSM120Backend"
FUNCTIONS = ("get_mla_metadata", "flash_mla_with_kvcache", "flash_mla_sparse_fwd")
FLASHMLA = Path("vllm", "v1", "attention", "ops", "flashmla.py")
CUDA = Path("vllm", "platforms", "cuda.py")


@pytest.fixture(autouse=True)
def knobs(base: Version, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (KNOB, GRAPHS, "VLLM_SM120_REFERENCE_DEEPSEEK_V4_ATTENTION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def installed(base: Version) -> Path:
    """The folder that the wheel's packages are in."""
    import vllm

    return Path(vllm.__file__).parents[1]


@pytest.fixture
def has_own_path(base: Version) -> bool:
    """Whether this release calls FlashInfer for sparse MLA on SM12x."""
    return base >= Version("0.24")


@pytest.fixture
def select(monkeypatch: pytest.MonkeyPatch, base: Version) -> Callable[..., str]:
    """Ask a CUDA platform of the wheel for the backend of a layer."""

    # With the platform that the tests have: it doesn't import with that of a GPU.
    importlib.import_module("vllm.v1.attention.backends.mla.flashmla_sparse")
    # They take memory of a device as they are imported. Without them, upstream takes the next one.
    for name in ("cutlass_mla", *(["flashinfer_mla"] if base < Version("0.24") else [])):
        monkeypatch.setitem(sys.modules, f"vllm.v1.attention.backends.mla.{name}", None)

    def ask(
        device: Device,
        *,
        cuda: ModuleType | None = None,
        backend: str | None = None,
        rope_dim: int = 64,
        index_topk: int = 2048,
        **options: Any,
    ) -> str:
        import torch
        from vllm.v1.attention.backends.registry import AttentionBackendEnum
        from vllm.v1.attention.selector import AttentionSelectorConfig

        selected = AttentionBackendEnum[backend] if backend else None
        config = devices.model(index_topk=index_topk, rope_dim=rope_dim, backend=selected)
        # Not its getter: a module that is imported here for the first time would keep ours.
        current = importlib.import_module("vllm.config.vllm")
        monkeypatch.setattr(current, "_current_vllm_config", config)
        layer = {
            "head_size": 512 + rope_dim,
            "dtype": torch.bfloat16,
            "kv_cache_dtype": "fp8_ds_mla",
            "block_size": None,
            "use_mla": True,
            "use_sparse": True,
        }
        platform = devices.use(device, monkeypatch, cuda)
        chosen: str = platform.get_attn_backend_cls(
            selected, AttentionSelectorConfig(**(layer | options)), num_heads=32
        )
        return chosen.removeprefix(FLASHINFER_MODULE)

    return ask


def answer(ask: Callable[[], str]) -> str:
    """What a selection gives, be it an error."""
    try:
        return ask()
    except ValueError as error:
        return f"ValueError: {error}"


def code_of(namespace: dict[str, Any]) -> dict[str, Any]:
    """What a module defines, in a form that two copies of it share."""
    return {name: _plain(value) for name, value in namespace.items() if name[:2] != "__"}


def _plain(value: Any) -> Any:
    if isinstance(value, FunctionType) and value.__module__.startswith("vllm.copy_of"):
        return _instructions(value.__code__)
    if isinstance(value, type) and value.__module__.startswith("vllm.copy_of"):
        return value.__name__
    return value if isinstance(value, bool | str | type | ModuleType) else type(value)


def _instructions(code: CodeType) -> tuple[Any, ...]:
    inner = [_instructions(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, str(inner)


@pytest.mark.parametrize("device", SM12X, ids=str)
@pytest.mark.parametrize("knob", [None, "1"])
def test_flashmlas_sparse_functions_are_ours_on_sm12x(
    installed: Path, monkeypatch: pytest.MonkeyPatch, device: Device, knob: str | None
) -> None:
    from vllm.sm12x.ops import flash_mla

    if knob:
        monkeypatch.setenv(KNOB, knob)
    devices.use(device, monkeypatch)
    module = devices.load(installed / FLASHMLA, monkeypatch)
    for name in (*FUNCTIONS, "FlashMLASchedMeta"):
        assert getattr(module, name) is getattr(flash_mla, name)
    assert module.is_flashmla_sparse_supported() == (True, None)
    assert isinstance(module.get_mla_metadata()[0], module.FlashMLASchedMeta)
    assert module.is_flashmla_dense_supported()[0] is False


@pytest.mark.parametrize("device", OTHERS, ids=str)
@pytest.mark.parametrize("knob", [None, "1"])
def test_elsewhere_the_module_is_upstreams_and_the_overlay_is_not_imported(
    installed: Path,
    pristine: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: Device,
    knob: str | None,
) -> None:
    if knob:
        monkeypatch.setenv(KNOB, knob)
    devices.use(device, monkeypatch)
    devices.forget_overlay(monkeypatch)
    module = devices.load(installed / FLASHMLA, monkeypatch)
    assert devices.entered() == []
    upstream = devices.load(pristine / FLASHMLA, monkeypatch)
    assert code_of(vars(module)) == code_of(vars(upstream))


def test_the_knob_leaves_upstreams_functions_on_sm12x(
    installed: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KNOB, "0")
    devices.use(SM120, monkeypatch)
    module = devices.load(installed / FLASHMLA, monkeypatch)
    ours = vars(module)
    del ours["bind"]
    upstream = devices.load(pristine / FLASHMLA, monkeypatch)
    assert code_of(ours) == code_of(vars(upstream))
    assert module.is_flashmla_sparse_supported()[0] is False


@pytest.mark.parametrize("device", SM12X, ids=str)
@pytest.mark.parametrize("kv_cache_dtype", ["auto", "bfloat16", "fp8", "fp8_ds_mla"])
def test_v32_and_glm_take_ours_where_flashinfer_is_not_installed(
    select: Callable[..., str], device: Device, kv_cache_dtype: str
) -> None:
    assert select(device, kv_cache_dtype=kv_cache_dtype) == OURS


@pytest.mark.parametrize("version", ["0.6.18", "0.7.0.post1", "0.7.1", "0.7.2.post1"])
@pytest.mark.parametrize("device", SM12X, ids=str)
def test_they_take_flashinfer_where_it_serves_them(
    select: Callable[..., str],
    have_flashinfer: Callable[..., Path],
    has_own_path: bool,
    device: Device,
    version: str,
) -> None:
    have_flashinfer(version)
    assert select(device) == (FLASHINFER if has_own_path else OURS)


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("metadata", [True, False])
def test_a_flashinfer_without_metadata_is_asked_as_another_is(
    select: Callable[..., str],
    have_flashinfer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    has_own_path: bool,
    says: bool,
    metadata: bool,
) -> None:
    from vllm.sm12x.mla import select as module

    told: list[Any] = []
    monkeypatch.setattr(module, "describe_once", lambda choice, _log: told.append(choice))
    have_flashinfer(says=says, metadata=metadata)
    assert select(SM120) == (FLASHINFER if has_own_path else OURS)
    (choice,) = told
    assert choice.triton is not has_own_path and not choice.unexpected


def test_a_flashinfer_that_does_not_import_is_none(
    select: Callable[..., str], have_flashinfer: Callable[..., Path]
) -> None:
    """FlashInfer raises RuntimeError, for one, where its cubins are of another version."""
    package = have_flashinfer()
    (package / "__init__.py").write_text("raise RuntimeError('of another version')\n")
    assert select(SM120) == OURS


@pytest.mark.parametrize(
    "case",
    [
        {"version": "0.6.13"},
        {"version": "0.6.17"},
        {"index_topk": 1024},
        {"index_topk": 512},
        {"kv_cache_dtype": "bfloat16"},
        {"backend": "FLASHMLA_SPARSE"},
    ],
    ids=str,
)
def test_they_take_ours_where_flashinfer_does_not_serve_them(
    select: Callable[..., str], have_flashinfer: Callable[..., Path], case: dict[str, Any]
) -> None:
    found = {name: case[name] for name in ("version",) if name in case}
    have_flashinfer(**found)
    assert select(SM120, **{name: case[name] for name in case if name not in found}) == OURS


@pytest.mark.parametrize("version", ["0.6.18.post1", "0.7.0.post1", "0.7.2.post1"])
def test_glm_without_rope_takes_flashinfer_where_that_and_vllms_cache_know_such_a_model(
    select: Callable[..., str], have_flashinfer: Callable[..., Path], base: Version, version: str
) -> None:
    have_flashinfer(version)
    chosen = answer(lambda: select(SM120, rope_dim=0))
    if base < Version("0.30"):
        assert chosen.startswith("ValueError")  # it has no such model
    else:
        served = base >= Version("0.31") and version >= "0.7"
        assert chosen == (FLASHINFER if served else OURS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"qk_rope_head_dim": None}, "no number for qk_rope_head_dim"),
        ({"index_topk": "2048"}, "no number for index_topk"),
        ({"index_topk": None}, "no number for index_topk"),
        ({"index_topk": 0}, "no number for index_topk"),
        ({"qk_rope_head_dim": -64}, "no number for qk_rope_head_dim"),
        ({"kv_lora_rank": None}, "no number for kv_lora_rank"),
        ({"kv_lora_rank": "512", "index_topk": None}, "no number for index_topk, kv_lora_rank"),
        ({"model_type": "hy_v4"}, "no number for num_hidden_layers"),
        ({"model_type": "hy_v4", "num_hidden_layers": "2"}, "no number for num_hidden_layers"),
        ({"model_type": "deepseek_v4"}, "doesn't say the kinds of its layers"),
        ({"model_type": "deepseek_v41", "compress_ratios": ()}, "doesn't say the kinds"),
        ({"compress_ratios": "4,128"}, "kinds of layers can't be read"),
        ({"compress_ratios": [4, None]}, "kinds of layers can't be read"),
        ({"compress_rates": {"c4a": 4}}, "kinds of layers can't be read"),
    ],
)
def test_a_configuration_without_the_fields_is_upstreams_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    from vllm.sm12x.support import choice, route

    told: list[str] = []
    monkeypatch.setattr(choice, "_said", set())
    monkeypatch.setattr(route.logger, "log", lambda level, text, *args: told.append(text % args))
    config, expected = devices.model(speculative=True), devices.model(speculative=True)
    for part in (config, expected):
        vars(part.model_config.hf_text_config).update(changes)
    platform = devices.use(SM120, monkeypatch)
    for _ in range(2):
        platform.check_and_update_config(config)
    assert config == expected
    (line,) = told
    assert said in line and "upstream's" in line


@pytest.mark.parametrize(
    "changes",
    [
        {"index_topk": None, "model_type": "deepseek_v3"},
        {"kv_lora_rank": None, "model_type": "minimax_m3"},
        {"kv_lora_rank": 256},
        {"model_type": "hy_v4", "num_hidden_layers": 2, "layer_types": 3},
        {"model_type": "hy_v4", "num_hidden_layers": 2, "layer_types": ["full_attention"] * 2},
    ],
)
def test_of_a_model_with_another_attention_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    from vllm.sm12x.support import route

    monkeypatch.setattr(route, "describe_once", lambda *_: pytest.fail("something is said"))
    config = devices.model()
    vars(config.model_config.hf_text_config).update(changes)
    devices.use(SM120, monkeypatch)
    assert route.read_model(config) is None


def test_the_knob_forces_ours(
    select: Callable[..., str],
    have_flashinfer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    have_flashinfer()
    monkeypatch.setenv(KNOB, "1")
    assert select(SM120) == OURS


@pytest.mark.parametrize("version", ["0.6.17", "0.7.2.post1"])
def test_the_knob_forbids_ours(
    select: Callable[..., str],
    have_flashinfer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    has_own_path: bool,
    version: str,
) -> None:
    have_flashinfer(version)
    monkeypatch.setenv(KNOB, "0")
    chosen = answer(lambda: select(SM120))
    assert chosen == FLASHINFER if has_own_path else chosen.startswith("ValueError")
    assert "compute capability" in answer(lambda: select(SM120, backend="FLASHMLA_SPARSE"))


def test_another_backend_that_is_asked_for_is_obeyed(
    select: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KNOB, "1")
    assert "TRITON_MLA is not valid" in answer(lambda: select(SM120, backend="TRITON_MLA"))


@pytest.mark.parametrize("device", OTHER_CUDA, ids=str)
@pytest.mark.parametrize("backend", [None, "FLASHMLA_SPARSE"])
@pytest.mark.parametrize("kv_cache_dtype", ["auto", "fp8_ds_mla"])
@pytest.mark.parametrize("rope_dim", [64, 0])
def test_elsewhere_the_selection_is_upstreams_and_the_overlay_is_not_imported(
    select: Callable[..., str],
    pristine: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: Device,
    backend: str | None,
    kv_cache_dtype: str,
    rope_dim: int,
) -> None:
    layer = {"backend": backend, "kv_cache_dtype": kv_cache_dtype, "rope_dim": rope_dim}
    monkeypatch.setenv(KNOB, "1")
    upstream = devices.load(pristine / CUDA, monkeypatch, "vllm.platforms")
    expected = answer(lambda: select(device, cuda=upstream, **layer))
    devices.forget_overlay(monkeypatch)
    assert answer(lambda: select(device, **layer)) == expected
    assert devices.entered() == []


@pytest.mark.parametrize("use_mla", [True, False])
def test_layers_that_are_not_sparse_are_upstreams_on_sm12x(
    select: Callable[..., str], pristine: Path, monkeypatch: pytest.MonkeyPatch, use_mla: bool
) -> None:
    layer = {"use_mla": use_mla, "use_sparse": False, "kv_cache_dtype": "auto"}
    upstream = devices.load(pristine / CUDA, monkeypatch, "vllm.platforms")
    expected = answer(lambda: select(SM120, cuda=upstream, **layer))
    devices.forget_overlay(monkeypatch)
    assert answer(lambda: select(SM120, **layer)) == expected
    assert devices.entered() == []


@pytest.mark.parametrize("speculative", [False, True])
@pytest.mark.parametrize(("knob", "captured"), [(None, True), ("1", True), ("0", False)])
@pytest.mark.parametrize("v4", [False, True])
def test_graphs_stay_on_unless_the_knob_turns_them_off(
    monkeypatch: pytest.MonkeyPatch, speculative: bool, knob: str | None, captured: bool, v4: bool
) -> None:
    from vllm.config import CompilationMode, CUDAGraphMode

    if knob:
        monkeypatch.setenv(GRAPHS, knob)
    config = devices.model(speculative=speculative, v4=v4)
    devices.use(SM120, monkeypatch).check_and_update_config(config)
    found = (config.compilation_config.mode, config.compilation_config.cudagraph_mode)
    off = (CompilationMode.NONE, CUDAGraphMode.NONE)
    assert found == (("compiled", "captured") if captured else off)


@pytest.mark.parametrize(
    ("mode", "sizes", "speculative", "said"),
    [
        ("FULL_AND_PIECEWISE", [1, 2, 4], True,
         "graphs FULL_AND_PIECEWISE of 3 sizes up to 4 rows, a request's 3 drafts among them"),
        ("FULL_DECODE_ONLY", [8], False, "graphs FULL_DECODE_ONLY of 1 size up to 8 rows"),
        ("NONE", [1, 2], True, "no graphs are captured"),
        ("FULL", [], True, "no graphs are captured"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_captured(
    base: Version, mode: str, sizes: list[int], speculative: bool, said: str
) -> None:
    from vllm.config import CUDAGraphMode
    from vllm.sm12x.mla.ready import graphs_of

    config = devices.model(speculative=speculative)
    config.compilation_config.cudagraph_mode = CUDAGraphMode[mode]
    config.compilation_config.cudagraph_capture_sizes = sizes
    assert graphs_of(config) == said


def test_graphs_are_off_where_a_model_is_ours_by_its_cache_or_its_heads(
    have_flashinfer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    has_own_path: bool,
    base: Version,
) -> None:
    """FlashInfer is there and serves others of the kind: what the layers find is foreseen."""
    from vllm.config import CUDAGraphMode

    if not has_own_path:
        pytest.skip("this release has no other path")
    have_flashinfer("0.6.18")
    monkeypatch.setenv(GRAPHS, "0")  # which is for models on our path
    looks = base >= Version("0.28")
    for captured, asked in (
        (True, {"cache_dtype": "fp8"}),
        (False, {"cache_dtype": "bfloat16"}),
        (True, {"v4": True, "heads": 64}),
        (not looks, {"v4": True, "heads": 256}),
    ):
        config = devices.model(speculative=True, **asked)
        devices.use(SM120, monkeypatch).check_and_update_config(config)
        graphs = config.compilation_config.cudagraph_mode
        assert (graphs != CUDAGraphMode.NONE) is captured, asked


def test_an_unnamed_cache_is_packed_where_upstreams_path_packs_it(
    monkeypatch: pytest.MonkeyPatch, has_own_path: bool
) -> None:
    config = devices.model()
    devices.use(SM120, monkeypatch).check_and_update_config(config)
    assert config.cache_config.cache_dtype == ("fp8_ds_mla" if has_own_path else "auto")
    config = devices.model(cache_dtype="bfloat16")
    devices.use(SM120, monkeypatch).check_and_update_config(config)
    assert config.cache_config.cache_dtype == "bfloat16"


@pytest.mark.parametrize("device", OTHER_CUDA, ids=str)
def test_elsewhere_the_configuration_is_upstreams(
    monkeypatch: pytest.MonkeyPatch, device: Device
) -> None:
    monkeypatch.setenv(KNOB, "1")
    devices.forget_overlay(monkeypatch)
    config = devices.model(speculative=True)
    devices.use(device, monkeypatch).check_and_update_config(config)
    assert config == devices.model(speculative=True)
    assert devices.entered() == []


@pytest.mark.parametrize("case", [{"knob": "0"}, {"flashinfer": True}, {"other": True}], ids=str)
def test_models_that_do_not_take_our_path_are_configured_by_upstream(
    have_flashinfer: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    case: dict[str, Any],
    has_own_path: bool,
) -> None:
    if "knob" in case:
        monkeypatch.setenv(KNOB, case["knob"])
    if "flashinfer" in case:
        if not has_own_path:
            pytest.skip("this release has no other path")
        have_flashinfer()
    config, expected = devices.model(speculative=True), devices.model(speculative=True)
    if "other" in case:
        for part in (config, expected):
            part.model_config.hf_text_config = SimpleNamespace(model_type="llama")
    devices.use(SM120, monkeypatch).check_and_update_config(config)
    assert config == expected
