# SPDX-License-Identifier: Apache-2.0
"""What was measured of kernels is kept by what decides it; only what was written is read again."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from vllm import sm12x

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import kept

ROOT = Path(__file__).parents[2]
ONE = "prefill, 512 wide, 16 heads"
REGRESSION, TOOL_MISSING = 6, 8


def report(keep: Path) -> tuple[int, Any]:
    """The real command for a kernel on both devices: its status and its document."""
    command = [sys.executable, "-m", "benchmarks.kernel_report", "--no-upstream", "--json"]
    command += ["--only", f"^{ONE}$", "--keep", str(keep)]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode == TOOL_MISSING:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_report_is_kept_and_judged_anew(tmp_path: Path) -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    _, first = report(tmp_path)
    assert len(first["kernels"]) == 2
    (path,) = tmp_path.iterdir()

    # A kernel that costs too much still does when what was measured is read.
    found = kept.read(tmp_path, path.stem)
    found[0]["barriers"] = 999
    kept.write(tmp_path, path.stem, found)
    status, second = report(tmp_path)
    assert status == REGRESSION
    assert second["kernels"][0]["barriers"] == 999
    assert any("barriers 999" in line for line in second["failed"])


def test_a_change_of_a_module_the_compiler_a_tool_or_a_variable_is_another_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: tmp_path / name for name in ("kernel.py", "ptxas", "nvdisasm")}
    for name, path in files.items():
        path.write_text(name)
    monkeypatch.delenv("TRITON_F32_DEFAULT", raising=False)
    seen = {kept.digest(["3.6.0"], files)}
    assert kept.digest(["3.6.0"], files) in seen
    for path in files.values():
        path.write_text(path.read_text() + " changed")
        seen.add(kept.digest(["3.6.0"], files))
    seen.add(kept.digest(["3.7.1"], files))
    seen.add(kept.digest(["3.7.1"], {"kernel.py": files["kernel.py"]}))
    monkeypatch.setenv("TRITON_F32_DEFAULT", "ieee")
    seen.add(kept.digest(["3.7.1"], files))
    assert len(seen) == 7
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert kept.digest(["3.7.1"], files) in seen


def test_every_module_of_the_kernels_decides() -> None:
    code = (
        "import sys; from benchmarks import kernel_report; kernel_report.find_overlay(); "
        "from benchmarks import compiled, our_kernels, kept; "
        "print(*dict(kept.our_modules(sys.modules)))"
    )
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    decide = set(done.stdout.split())
    assert {"benchmarks.sass", "benchmarks.compiled", "benchmarks.our_products"} <= decide
    kernels = Path(sm12x.__file__ or "").parent / "kernels"
    with_code = {
        f"vllm.sm12x.kernels.{path.stem}"
        for path in kernels.glob("*.py")
        if "@triton.jit" in path.read_text(encoding="utf-8")
    }
    # What merges splits multiplies no matrices, so the report leaves it out.
    assert with_code - decide == {"vllm.sm12x.kernels.merge"}


@pytest.mark.parametrize("damage", ["", "[1, 2]", "{}", '{"proof": 1}', '{"found": [], "proof":'])
def test_what_is_no_kept_result_is_not_read(tmp_path: Path, damage: str) -> None:
    kept.write(tmp_path, "inputs", [1])
    assert kept.read(tmp_path, "inputs") == [1]
    assert kept.read(tmp_path, "others") is None
    (tmp_path / "inputs.json").rename(tmp_path / "others.json")
    assert kept.read(tmp_path, "others") is None
    (tmp_path / "inputs.json").write_text(damage, encoding="utf-8")
    assert kept.read(tmp_path, "inputs") is None
