# SPDX-License-Identifier: Apache-2.0
"""Compiling for another machine: which one, with what, and what is said where it can't be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.compile.ninja import in_wheel
from recipe.compile.toolchain import target, toolkit
from recipe.compile.toolchain.cross import literal, stand_in
from recipe.compile.toolchain.environment import NativeEnv
from recipe.compile.toolchain.target import TARGETS, Target
from recipe.ground.errors import MachineError, UsageError
from tests.recipe.world import MACHINE, World

SPARK = TARGETS["x86_64", "aarch64"]
# A compiler that prints where its libraries are, and writes whatever it is asked to link.
COMPILER = """\
#!/bin/sh
for word in "$@"; do
  case "$word" in -print-file-name=*) echo "{libraries}/${{word#*=}}"; exit;; esac
  if test "$before" = -o; then echo stub > "$word"; fi
  before=$word
done
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an aarch64 compiler's libraries, with that compiler alone on the PATH."""
    libraries = tmp_path / "sysroot" / "lib"
    libraries.mkdir(parents=True)
    programs = tmp_path / "compiler"
    programs.mkdir()
    for name in ("gcc", "g++"):
        program = programs / f"{SPARK.triple}-{name}"
        program.write_text(COMPILER.format(libraries=libraries), encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return libraries


def on(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "this_machine", lambda: machine)


def test_a_machine_compiles_for_itself_without_a_cross_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for machine in ("x86_64", "aarch64"):
        on(machine, monkeypatch)
        assert target.target_of(machine) is None
        assert target.reachable(machine)


def test_x86_64_compiles_for_aarch64_and_not_the_other_way_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on("x86_64", monkeypatch)
    assert target.target_of("aarch64") == SPARK
    on("aarch64", monkeypatch)
    assert not target.reachable("x86_64")
    with pytest.raises(UsageError, match="compiles nothing for x86_64"):
        target.target_of("x86_64")


def test_a_missing_compiler_is_named_as_debian_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MachineError, match=r"no C\+\+ compiler for aarch64") as caught:
        SPARK.tool("g++")
    assert caught.value.exit_code == 8
    assert "apt-get install g++-aarch64-linux-gnu" in caught.value.next


def world_path(folder: Path, *names: str) -> dict[str, str]:
    """A PATH of these programs alone."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return {"PATH": str(folder)}


@pytest.mark.skipif(MACHINE != "x86_64", reason="this machine compiles for itself")
@pytest.mark.parametrize(
    "args",
    [
        ("doctor", "--platform", "aarch64"),
        ("plan", "--platform", "aarch64", "--native", "_C"),
        ("build", "--platform", "aarch64", "--native", "_C", "--no-test"),
    ],
)
def test_a_cross_build_without_its_compiler_ends_with_8_and_the_package(
    world: World, tmp_path: Path, args: tuple[str, ...]
) -> None:
    done = world.run(*args, env=world_path(tmp_path / "programs", "git", "tar"))
    assert done.status == 8
    assert "g++-aarch64-linux-gnu" in done.out + done.err
    assert not list(world.cache.glob("envs/*"))


@pytest.mark.skipif(MACHINE != "x86_64", reason="this machine compiles for itself")
def test_a_plan_asks_for_a_cross_compiler_where_something_may_be_compiled(
    world: World, tmp_path: Path
) -> None:
    programs = world_path(tmp_path / "programs", "git", "tar")
    done = world.run("plan", "--platform", "aarch64", env=programs)
    assert done.status == 0, done.err
    kernel = {"csrc/kernel.cu": b"// faster\n"}
    world.add_patch("faster.patch", world.upstream.patch(kernel, Components="_C"))
    done = world.run("plan", "--platform", "aarch64", env=programs)
    assert done.status == 8
    assert "g++-aarch64-linux-gnu" in done.next


def test_doctor_asks_for_no_cross_compiler_unless_another_machine_is_built_for(
    world: World, tmp_path: Path
) -> None:
    done = world.run("doctor", env=world_path(tmp_path / "programs", "git", "tar"))
    assert "aarch64-linux-gnu" not in done.out


def test_upstreams_questions_get_the_answers_of_a_torch_that_cannot_run_here(
    tmp_path: Path,
) -> None:
    other = tmp_path / "other" / "torch"
    (other / "utils").mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('made for another machine')\n")
    (other / "utils" / "cpp_extension.py").write_text(
        "raise ImportError('made for another machine')\n"
        "COMMON_NVCC_FLAGS = ['-D__CUDA_NO_HALF_OPERATORS__', '--expt-relaxed-constexpr']\n"
    )
    mine = tmp_path / "mine"
    for path, text in stand_in(other).items():
        (mine / path).parent.mkdir(parents=True, exist_ok=True)
        (mine / path).write_text(text, encoding="utf-8")
    # As vLLM's cmake/utils.cmake asks.
    questions = {
        "import torch; print(torch.utils.cmake_prefix_path)": f"{other}/share/cmake",
        "from torch.utils.cpp_extension import COMMON_NVCC_FLAGS; "
        "print(';'.join(COMMON_NVCC_FLAGS))": (
            "-D__CUDA_NO_HALF_OPERATORS__;--expt-relaxed-constexpr"
        ),
    }
    for question, answer in questions.items():
        said = subprocess.run(
            [sys.executable, "-c", question],
            env={**os.environ, "PYTHONPATH": f"{mine}:{other.parent}"},
            capture_output=True,
            check=True,
            text=True,
        )
        assert said.stdout.strip() == answer


@pytest.mark.parametrize("text", ["", "FLAGS = [one()]\n", "def FLAGS(): pass\n"])
def test_a_constant_that_is_no_plain_value_is_said_and_not_guessed(
    tmp_path: Path, text: str
) -> None:
    module = tmp_path / "module.py"
    module.write_text(text, encoding="utf-8")
    with pytest.raises(MachineError, match="doesn't give FLAGS"):
        literal(module, "FLAGS")


def fill(folder: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
        if path.startswith(("bin/", "nvvm/bin/")):
            (folder / path).chmod(0o755)


@pytest.fixture
def crossed(tmp_path: Path, compiler: Path) -> Path:
    """A toolkit of this machine's programs and another's headers and libraries."""
    programs, libraries, root = (tmp_path / name for name in ("programs", "libraries", "root"))
    fill(
        programs,
        {
            "bin/nvcc": "this machine's",
            "bin/ptxas": "",
            "nvvm/bin/cicc": "",
            "nvvm/libdevice/libdevice.10.bc": "",
            "include/cuda_runtime.h": "this machine's",
            "include/fatbinary_section.h": "nvcc's own",
            "lib/libcudart.so.13": "this machine's",
            "lib/libonly_here.so.13": "this machine's",
        },
    )
    headers = [path for path in toolkit.LOOKED_FOR if path.startswith("include/")]
    shared = [path for path in toolkit.LOOKED_FOR if path.startswith("lib64/")]
    fill(libraries, dict.fromkeys(headers, "the other's"))
    fill(libraries, {f"{path.replace('lib64', 'lib')}.13": "the other's" for path in shared})
    toolkit.lay_out_crossed(programs, libraries, root, SPARK.tool("gcc"))
    return root


def test_a_crossing_toolkit_has_no_library_of_this_machine(crossed: Path) -> None:
    assert (crossed / "bin/nvcc").read_text() == "this machine's"
    assert not (crossed / "bin/nvcc").is_symlink(), "nvcc looks for the rest beside its real path"
    for path in ("include/cuda_runtime.h", "lib64/libcudart.so.13", "lib64/libcudart.so"):
        assert (crossed / path).read_text() == "the other's"
    assert (crossed / "include/fatbinary_section.h").read_text() == "nvcc's own"
    assert not (crossed / "lib64/libonly_here.so.13").exists()
    assert (crossed / "lib64/stubs/libcuda.so").read_text() == "stub\n"


def test_packages_without_a_library_are_said_before_cmake_runs(
    tmp_path: Path, compiler: Path
) -> None:
    with pytest.raises(MachineError, match="together lack bin/nvcc"):
        toolkit.lay_out_crossed(tmp_path, tmp_path, tmp_path / "root", SPARK.tool("gcc"))


def env_for(folder: Path, to: Target | None) -> NativeEnv:
    site = folder / "lib" / "python3.11" / "site-packages"
    for name in ("cu13", "nccl"):
        (site / "nvidia" / name / "lib").mkdir(parents=True, exist_ok=True)
    (folder / "pyvenv.cfg").write_text("home = /opt/python/bin\n", encoding="utf-8")
    return NativeEnv(
        folder=folder,
        shelf=folder,
        python="3.11",
        torch="2.11.0",
        toolkit=toolkit.Toolkit(root=folder / "toolkit", version="13.0.88", why=""),
        compiler="g++ 12.2.0",
        target=to,
    )


@pytest.mark.skipif(MACHINE != "x86_64", reason="the other machine is aarch64 here")
def test_the_machine_that_is_compiled_for_is_part_of_an_environments_identity(
    tmp_path: Path,
) -> None:
    assert env_for(tmp_path, SPARK).identity != env_for(tmp_path, None).identity


@pytest.mark.parametrize(
    ("installed", "member"),
    [
        ("vllm/_C.so", "vllm/_C.cpython-311-aarch64-linux-gnu.so"),
        ("vllm/_moe_C.abi3.so", "vllm/_moe_C.abi3.so"),
        ("vllm/libcore.so", "vllm/libcore.so"),
        ("vllm/third_party/deep_gemm/__init__.py", "vllm/third_party/deep_gemm/__init__.py"),
    ],
)
def test_a_module_for_one_python_says_so_in_its_name(
    tmp_path: Path, installed: str, member: str
) -> None:
    assert in_wheel(installed, env_for(tmp_path, SPARK)) == member
    assert in_wheel(installed, env_for(tmp_path, None)) == installed


def test_cmake_is_told_to_look_for_libraries_where_the_other_machines_are(
    tmp_path: Path, compiler: Path
) -> None:
    env = env_for(tmp_path, SPARK)
    told = env.cmake_entries
    assert told["CMAKE_SYSTEM_PROCESSOR"] == "aarch64"
    assert told["CMAKE_CUDA_HOST_COMPILER"] == SPARK.tool("g++")
    roots = f"{compiler.parent};{tmp_path};{tmp_path}/toolkit"
    assert told["CMAKE_FIND_ROOT_PATH"] == roots
    assert told["Python_INCLUDE_DIR"] == "/opt/python/include/python3.11"
    assert compiler in env.library_folders
    assert not [path for path in env.library_folders if path.is_relative_to("/lib")]


def test_a_build_for_this_machine_tells_cmake_nothing_of_another(tmp_path: Path) -> None:
    env = env_for(tmp_path, None)
    assert env.cmake_entries == {}
    assert Path("/lib/x86_64-linux-gnu") in env.library_folders
