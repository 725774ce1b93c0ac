# SPDX-License-Identifier: Apache-2.0
"""The build environment for another machine: its torch and CUDA libraries, this one's programs.

Packages for the other machine are unpacked and never run. What upstream's CMake asks of Python's
torch is answered by a stand-in that has it from the files of the torch that is compiled for.
"""

from __future__ import annotations

import ast
import hashlib
import json
from pathlib import Path

from recipe.bases.releases import Base
from recipe.compile.toolchain import toolkit
from recipe.compile.toolchain.environment import (
    COMPILE,
    NativeEnv,
    check_torch,
    no_packages,
    tools,
    torch_requires,
)
from recipe.compile.toolchain.host_compiler import compiler_version
from recipe.compile.toolchain.target import Target
from recipe.ground import scratch
from recipe.ground.environments.made import QUIET_PIP, kept, site_packages, step
from recipe.ground.errors import MachineError
from recipe.ground.project import Project

# torch and CUDA's libraries for one machine, unpacked, and their archives while they are.
PACKAGES_BYTES = 6 << 30
# CUDA's programs, which must be this machine's; the rest of a toolkit is the target's.
PROGRAMS = ("nvcc", "crt", "nvvm")
LIBRARIES = tuple(name for name in toolkit.EXTRAS if name not in ("nvcc", "nvvm"))


def cross_env(
    project: Project, base: Base, target: Target, interpreter: str, python: str, *, offline: bool
) -> NativeEnv:
    """The build environment of a base for another machine; made in the cache if it isn't there."""
    compiler = compiler_version(target.tool("g++"))
    shelf = target_packages(project, base, target, interpreter, python, offline=offline)
    site = site_packages(shelf)
    packaged = toolkit.packaged_version(torch_requires(site))
    assert packaged is not None, shelf  # it was laid there by that version
    found, refused = toolkit.machine_toolkit(base.cuda, toolkit.candidates())
    wanted = [] if found else [f"cuda-toolkit[{','.join(PROGRAMS)}]=={packaged}"]

    def lay(folder: Path) -> None:
        family = f"cu{base.cuda.partition('.')[0]}"
        programs = found.root if found else site_packages(folder) / "nvidia" / family
        libraries = site / "nvidia" / family
        toolkit.lay_out_crossed(programs, libraries, folder / "toolkit", target.tool("gcc"))
        for path, text in stand_in(site / "torch").items():
            scratch.write_whole(site_packages(folder) / path, text.encode())

    folder = tools(
        project, interpreter, shelf, wanted, lay, named=f"native-{target.machine}", offline=offline
    )
    version = toolkit.nvcc_version(folder / "toolkit" / "bin" / "nvcc")
    why = found.why if found else f"NVIDIA's packages of CUDA {version}"
    why += f" ({'; '.join(refused)})" if refused else ""
    return NativeEnv(
        folder=folder,
        shelf=shelf,
        python=python,
        torch=base.torch,
        toolkit=toolkit.Toolkit(
            root=folder / "toolkit",
            version=version,
            why=f"{why}, with the libraries of {target.machine}",
        ),
        compiler=compiler,
        target=target,
    )


def target_packages(
    project: Project, base: Base, target: Target, interpreter: str, python: str, *, offline: bool
) -> Path:
    """The base's torch and CUDA's libraries for the target, laid out as an environment's."""
    needs = json.dumps([target.machine, python, base.torch, LIBRARIES])
    key = f"{target.machine}-{hashlib.sha256(needs.encode()).hexdigest()[:12]}"

    def make(folder: Path) -> None:
        step([interpreter, "-m", "venv", str(folder)], folder.parent, COMPILE)
        site = site_packages(folder)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", *QUIET_PIP]
        # pip takes a package for another machine only as an archive, and only into a folder.
        pip += [
            "--only-binary=:all:",
            "--no-compile",
            "--no-warn-conflicts",
            "--python-version",
            python,
        ]
        pip += [f"--platform={tag}" for tag in target.wheels] + ["--target", str(site)]
        step([*pip, "--no-deps", f"torch=={base.torch}"], folder.parent, COMPILE)
        check_torch(base, site)
        version = toolkit.packaged_version(torch_requires(site))
        if version is None:
            raise no_packages(base, [])
        step([*pip, f"cuda-toolkit[{','.join(LIBRARIES)}]=={version}"], folder.parent, COMPILE)

    made = {"machine": target.machine, "packages": f"torch {base.torch}", "python": python}
    return kept(project, key, make, made, offline=offline, room=PACKAGES_BYTES, purpose=COMPILE)


def stand_in(torch: Path) -> dict[str, str]:
    """Files of a Python package that answers for a torch which this machine can't load.

    torch: the folder of the package. Upstream's CMake asks where torch's CMake files are and which
    flags torch gives to nvcc; anything else it asked for would be an ImportError there.
    """
    flags = literal(torch / "utils" / "cpp_extension.py", "COMMON_NVCC_FLAGS")
    where = str(torch / "share" / "cmake")
    return {
        "torch/__init__.py": "from torch import utils\n",
        "torch/utils/__init__.py": f"cmake_prefix_path = {where!r}\n",
        "torch/utils/cpp_extension.py": f"COMMON_NVCC_FLAGS = {flags!r}\n",
    }


def module(path: Path) -> ast.Module:
    """The syntax tree of a file; an empty one where Python can't read it."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module(body=[], type_ignores=[])


def literal(path: Path, name: str) -> object:
    """The value of a module's constant, read without running the module."""
    for node in module(path).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=found)], value=ast.expr() as value)
                | ast.AnnAssign(target=ast.Name(id=found), value=ast.expr() as value)
            ) if found == name:
                try:
                    return ast.literal_eval(value)
                except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                    break
    raise MachineError(
        f"{path} doesn't give {name} as a plain value",
        means="Upstream's CMake asks torch for it, and this torch can't be run on this machine.",
        next="run the build on a machine of the wheel's kind, or take upstream's binaries: "
        "--native none",
    )
