# SPDX-License-Identifier: Apache-2.0
"""The overlay's variables are vLLM's own: known, listed, validated, and out of the compile key."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

# What vLLM and torch warn about while they are imported is not judged here.
pytestmark = pytest.mark.filterwarnings("default")

PREFETCH, MIN_GIB = "VLLM_SM12X_PREFETCH", "VLLM_SM12X_PREFETCH_MIN_GIB"


@pytest.fixture
def envs(base: Version, monkeypatch: pytest.MonkeyPatch) -> Any:
    import vllm.envs

    for name in (PREFETCH, MIN_GIB):
        monkeypatch.delenv(name, raising=False)
    return vllm.envs


def test_vllm_envs_reads_the_overlays_variables(envs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (envs.VLLM_SM12X_PREFETCH, envs.VLLM_SM12X_PREFETCH_MIN_GIB) == ("auto", 50.0)
    monkeypatch.setenv(PREFETCH, "0")
    monkeypatch.setenv(MIN_GIB, "1.5")
    assert (envs.VLLM_SM12X_PREFETCH, envs.VLLM_SM12X_PREFETCH_MIN_GIB) == ("0", 1.5)


def test_they_are_listed_and_can_be_asked_whether_they_are_set(
    envs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {PREFETCH, MIN_GIB} <= set(dir(envs))
    assert not envs.is_set(PREFETCH)
    monkeypatch.setenv(PREFETCH, "1")
    assert envs.is_set(PREFETCH)


def test_they_are_cached_with_the_others(envs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    envs.enable_envs_cache()
    try:
        monkeypatch.setenv(PREFETCH, "1")
        assert envs.VLLM_SM12X_PREFETCH == "auto"
    finally:
        envs.disable_envs_cache()
    assert envs.VLLM_SM12X_PREFETCH == "1"


def test_strict_validation_accepts_them_and_still_refuses_strangers(
    envs: Any, base: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.platforms import current_platform

    validate = (current_platform if base >= Version("0.31") else envs).validate_environ
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(PREFETCH, "1")
    monkeypatch.setenv(MIN_GIB, "2")
    validate(hard_fail=True)
    monkeypatch.setenv("VLLM_SM12X_NO_SUCH_VARIABLE", "1")
    with pytest.raises(ValueError, match="VLLM_SM12X_NO_SUCH_VARIABLE"):
        validate(hard_fail=True)


@pytest.mark.parametrize(
    ("alias", "name", "text", "value"),
    [
        ("VLLM_SM120_REFERENCE_DEEPSEEK_V4_ATTENTION", "VLLM_TRITON_MLA_SPARSE", "0", False),
        ("VLLM_SM120_DUMP_DEEPSEEK_V4_ATTENTION", "VLLM_TRITON_MLA_SPARSE_DUMP", "1", True),
        ("VLLM_SM120_ATTENTION_DUMP_PATH", "VLLM_TRITON_MLA_SPARSE_DUMP_PATH", "/d", "/d"),
        (
            "VLLM_SM120_REFERENCE_TOPK_CHUNK_SIZE",
            "VLLM_TRITON_MLA_SPARSE_TOPK_CHUNK_SIZE",
            "96",
            96,
        ),
        (
            "VLLM_SM120_REFERENCE_QUERY_CHUNK_SIZE",
            "VLLM_TRITON_MLA_SPARSE_QUERY_CHUNK_SIZE",
            "7",
            7,
        ),
    ],
)
def test_names_of_the_prototype_are_vllms_too(
    envs: Any,
    base: Version,
    monkeypatch: pytest.MonkeyPatch,
    alias: str,
    name: str,
    text: str,
    value: object,
) -> None:
    from vllm.platforms import current_platform

    for other in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(other)
    monkeypatch.setenv(alias, text)
    (current_platform if base >= Version("0.31") else envs).validate_environ(hard_fail=True)
    assert (getattr(envs, name), getattr(envs, alias)) == (value, value)


def test_a_loading_knob_leaves_the_compile_cache_key_alone(
    envs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = envs.compile_factors()
    monkeypatch.setenv(PREFETCH, "1")
    monkeypatch.setenv(MIN_GIB, "2")
    assert envs.compile_factors() == before


def test_a_variable_that_changes_graphs_is_in_the_compile_cache_key(
    envs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.sm12x.envs import EnvVar

    name = "VLLM_SM12X_TEST_KERNEL"
    variable = EnvVar(name=name, default=1, parser=int, meaning="", compile_factor=True)
    monkeypatch.setitem(envs.environment_variables, name, variable)
    assert envs.compile_factors()[name] == 1
    monkeypatch.setenv(name, "2")
    assert envs.compile_factors()[name] == 2


def test_the_compile_cache_key_is_the_one_of_upstream_and_our_factors(
    envs: Any, pristine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("upstream_envs", pristine / "vllm" / "envs.py")
    assert spec is not None
    assert spec.loader is not None
    upstream = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, upstream)  # some entries look it up there
    spec.loader.exec_module(upstream)
    from vllm.sm12x.envs import VARIABLES

    own = {name: v for v in VARIABLES for name in (v.name, *v.aliases)}
    factors = envs.compile_factors()
    added = {name for name in factors if name in own}
    assert added == {name for name, variable in own.items() if variable.compile_factor}
    assert {n: f for n, f in factors.items() if n not in added} == upstream.compile_factors()


def test_setup_py_can_load_the_file_without_the_package(tree: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('envs', sys.argv[1])\n"
        "envs = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(envs)\n"
        "print(envs.VLLM_TARGET_DEVICE, [name for name in sys.modules if name == 'vllm'])\n"
    )
    # Isolated and without site-packages: neither the wheel nor the tree can be imported.
    command = [sys.executable, "-I", "-S", "-c", code, str(tree / "vllm" / "envs.py")]
    environment = {"PATH": os.environ.get("PATH", "")}
    result = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=os.sep
    )
    assert (result.stdout.split(), result.returncode) == (["cuda", "[]"], 0), result.stderr
