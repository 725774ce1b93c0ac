# SPDX-License-Identifier: Apache-2.0
"""Real model classes are fed a counting iterator: what docs/loading.md says of them is so."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from benchmarks.draining import KEPT, judge

SCRIPT = Path(__file__).with_name("draining.py")
# What is served on SM12x; those that a release hasn't got are passed over.
SERVED = [
    "DeepseekV32ForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV4ForCausalLM",
    "DeepseekV41ForCausalLM", "Gemma4ForConditionalGeneration", "Glm5NextForCausalLM",
    "GlmMoeDsaForCausalLM", "GptOssForCausalLM", "HYV4ForCausalLM", "Llama4ForCausalLM",
    "Llama4ForConditionalGeneration", "MiMoV2FlashForCausalLM",
    "Qwen3MoeForCausalLM", "Qwen3NextForCausalLM", "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
]  # fmt: skip


def feed(folder: Path, base: Version, names: list[str]) -> dict[str, Any]:
    """What classes hold, by a process whose modules bind to a platform of SM12x."""
    result = folder / f"{base}.json"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(result), *names],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=SCRIPT.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def kept(base: Version) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    if str(base) not in found:
        pytest.skip(f"{KEPT.name} has nothing of {base}")
    one: dict[str, Any] = found[str(base)]
    return one


@pytest.fixture(scope="module")
def found(base: Version, kept: dict[str, Any], tmp_path_factory: Any) -> dict[str, Any]:
    """What classes hold that are served, or that are said to hold much; all of them if asked."""
    folder = os.environ.get("SM12X_DRAINING")
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return feed(Path(folder), base, [])
    return feed(tmp_path_factory.mktemp("found"), base, [*SERVED, *kept["holding"]])


def test_what_is_served_takes_each_tensor_before_it_asks_for_the_next(
    found: dict[str, Any], base: Version
) -> None:
    assert len(set(SERVED) & set(found)) >= (8 if base >= Version("0.24") else 6)
    for name in SERVED:
        if name not in found:
            continue
        one = found[name]
        if name.startswith("Gemma4") and base < Version("0.33"):
            # These releases don't understand the class that this transformers reads it with.
            assert "per-layer attribute" in one["why_not"], one
            continue
        assert "held" in one, (name, one)
        assert one["taken"] > one["given"] // 2 > 4, (name, one)
        if name == "Llama4ForConditionalGeneration" and base >= Version("0.24"):
            # Upstream's own streaming, from v0.24 on, keeps the vision tower's weights.
            assert one["held"] < one["given"]
            continue
        assert one["held"] <= 4, (name, one)


def test_a_class_that_holds_a_checkpoint_is_listed_and_no_other(
    found: dict[str, Any], kept: dict[str, Any]
) -> None:
    assert judge(found)["holding"] == kept["holding"]
