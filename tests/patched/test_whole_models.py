# SPDX-License-Identifier: Apache-2.0
"""Small models of every kind, made whole by vLLM's own code on devices of four capabilities."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

SCRIPT = Path(__file__).with_name("whole_models.py")
SM12X, OTHERS = ["12.0", "12.1"], ["10.0", "9.0"]
COMPRESSED = ["V4-Flash", "V4-Pro", "V4.1-Flash"]
MIXED = "HY V4 with a dense layer"
SPARSE = ["V3.2", "GLM-5.2", "GLM-5.3-Flash", "HY V4", MIXED]
SINCE = {"V4.1-Flash": "0.30", "GLM-5.3-Flash": "0.30", "HY V4": "0.33", MIXED: "0.33"}
OURS = "vllm.sm12x."


@pytest.fixture(scope="session")
def made(base: Version, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What comes of every model on every device; a process each, for modules bind as they load."""
    folder = tmp_path_factory.mktemp("models")
    environment = {name: os.environ[name] for name in os.environ if "VLLM_TRITON" not in name}
    environment |= {"HF_HUB_OFFLINE": "1"}
    running = {}
    for device in SM12X + OTHERS:
        command = [sys.executable, str(SCRIPT), "cuda", *device.split("."), str(folder / device)]
        with (folder / f"{device}.log").open("wb") as log:
            running[device] = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=SCRIPT.parent
            )
    found = {}
    for device, process in running.items():
        code = process.wait()
        assert code == 0, (folder / f"{device}.log").read_text(encoding="utf-8")[-3000:]
        found[device] = json.loads((folder / device).read_text(encoding="utf-8"))
    return found


def model_of(made: dict[str, dict[str, Any]], device: str, name: str, base: Version) -> Any:
    """What came of a model, which must be an answer; skips where a release hasn't got it."""
    if base < Version(SINCE.get(name, "0")):
        assert name not in made[device]
        pytest.skip("this release has no such model")
    found = made[device][name]
    assert isinstance(found, dict), found
    return found


def attention(found: Any, part: int) -> set[str]:
    """Classes (0) or backends (1) of the layers that attend; a wrapper has no backend."""
    layers = [layer for prefix, layer in found["layers"].items() if prefix.endswith("attn")]
    return {layer[part] for layer in layers}


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("device", SM12X)
def test_v4_attends_through_our_class(
    made: dict[str, dict[str, Any]], base: Version, device: str, name: str
) -> None:
    found = model_of(made, device, name, base)
    older = base < Version("0.22")
    module = "mla.deepseek_v4_older." if older else "mla.deepseek_v4."
    cls = "DeepseekV4MLAAttention" if older else "TritonDeepseekV4FlashMLAAttention"
    assert attention(found, 0) == {OURS + module + cls}
    assert all(backend.startswith(OURS) for backend in attention(found, 1))
    assert found["cache_dtype"] == "fp8"


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("device", SM12X)
def test_v32_and_its_kind_attend_through_our_backend(
    made: dict[str, dict[str, Any]], base: Version, device: str, name: str
) -> None:
    found = model_of(made, device, name, base)
    sparse = {backend for backend in attention(found, 1) if "Sparse" in backend}
    assert sparse == {f"{OURS}mla.backend.SparseBackend"}
    # What attends to all tokens, which is upstream's, reads no packed cache.
    packed = base >= Version("0.24") and name != MIXED
    assert found["cache_dtype"] == ("fp8_ds_mla" if packed else "auto")
    others = attention(found, 1) - sparse
    assert not any(OURS in backend for backend in others)
    assert others or name != MIXED


@pytest.mark.parametrize("device", SM12X + OTHERS)
def test_llama_4_attends_through_upstreams(
    made: dict[str, dict[str, Any]], base: Version, device: str
) -> None:
    found = model_of(made, device, "Llama 4", base)
    assert attention(found, 1)
    assert not any(OURS in name for name in attention(found, 0) | attention(found, 1))
    assert found["cache_dtype"] == "auto"


@pytest.mark.parametrize("name", [*COMPRESSED, *SPARSE])
@pytest.mark.parametrize("device", OTHERS)
def test_elsewhere_nothing_is_ours(
    made: dict[str, dict[str, Any]], base: Version, device: str, name: str
) -> None:
    found = model_of(made, device, name, base)
    assert attention(found, 0)
    assert not any(OURS in cls for layer in found["layers"].values() for cls in layer)
    assert found["imported"] == []
    if device == "10.0" and name.startswith("GLM") and base >= Version("0.33"):
        assert found["cache_dtype"].startswith("fp8")  # upstream's own choice there
    else:
        assert found["cache_dtype"] == ("fp8" if name in COMPRESSED else "auto")


@pytest.mark.parametrize("device", SM12X + OTHERS)
def test_graphs_are_what_they_are_elsewhere_and_drafts_change_nothing(
    made: dict[str, dict[str, Any]], device: str
) -> None:
    for name, found in made[device].items():
        assert found["graphs"] == "FULL_AND_PIECEWISE"
        assert found["compiled"] == made["9.0"][name]["compiled"]
        if name in ("V4-Flash", "V3.2"):
            assert found["speculative"] == [found["compiled"], found["graphs"]]
