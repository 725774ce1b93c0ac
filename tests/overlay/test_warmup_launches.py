# SPDX-License-Identifier: Apache-2.0
"""What a call of any shape makes Triton compile, the warm-up has, by the key that Triton uses."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from vllm import sm12x

SCRIPT = Path(__file__).with_name("launches.py")


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """In a process of its own: in this one the kernels are interpreted."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    folders = [str(Path(sm12x.__file__ or "").parents[2]), env.get("PYTHONPATH")]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    done = subprocess.run([sys.executable, str(SCRIPT)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    models: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return models


def test_every_kernel_that_a_call_needs_is_compiled_by_the_warm_up(found: dict[str, Any]) -> None:
    assert {name: model["missing"] for name, model in found.items() if model["missing"]} == {}


def test_calls_need_most_of_what_is_compiled(found: dict[str, Any]) -> None:
    assert len(found) == 24
    for name, model in found.items():
        assert model["warm"] >= model["called"] >= model["warm"] // 2, name
