# SPDX-License-Identifier: Apache-2.0
"""What compiles a base: its own torch, a CUDA toolkit of torch's version, CMake and ninja.

Nothing here is the machine's but the C++ compiler and, where it fits, its CUDA toolkit. torch is
taken from an environment that is in the cache already, if there is one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.parser import HeaderParser
from pathlib import Path

from recipe.bases.releases import Base
from recipe.compile.toolchain import host_compiler, toolkit
from recipe.compile.toolchain.target import Target, cmake_entries, library_folders, this_machine
from recipe.ground.environments.made import (
    QUIET_PIP,
    READY,
    Needs,
    Purpose,
    dependencies,
    kept,
    made_of,
    see_behind,
    site_packages,
    step,
)
from recipe.ground.errors import MachineError
from recipe.ground.project import Project

COMPILE = Purpose(
    name="the build environment",
    without="Nothing was compiled.",
    instead="take upstream's binaries: --native none",
)
# CUDA's compiler and headers as packages, and a copy of its programs.
TOOLS_BYTES = 1 << 30
LOCK = "requirements/native.lock"


@dataclass(frozen=True, kw_only=True)
class NativeEnv:
    """folder: CMake, ninja and what else the build calls. shelf: the environment with torch.

    python: major.minor. compiler: the C++ compiler's own words for itself. target: the machine
    that is compiled for, None for this one. told: the variables that name the compiler.
    """

    folder: Path
    shelf: Path
    python: str
    torch: str
    toolkit: toolkit.Toolkit
    compiler: str
    target: Target | None = None
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def sites(self) -> tuple[Path, Path]:
        """Where packages lie, the build's own first."""
        return site_packages(self.folder), site_packages(self.shelf)

    @property
    def torch_libraries(self) -> Path:
        return self.sites[1] / "torch" / "lib"

    @property
    def interpreter_home(self) -> Path:
        """Where the Python that the environment was made with lies, with its headers."""
        text = (self.folder / "pyvenv.cfg").read_text(encoding="utf-8")
        settings = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
        return Path(settings["home"]).parent

    def tool(self, name: str) -> str:
        return str(self.folder / "bin" / name)

    @property
    def machine(self) -> str:
        """What is compiled for."""
        return self.target.machine if self.target else this_machine()

    @property
    def cmake_entries(self) -> dict[str, str]:
        """What CMake must be told to compile for another machine.

        The headers of Python are this machine's: pyconfig.h is the same on both but for what only
        the interpreter's own sources ask.
        """
        if self.target is None:
            return {}
        return cmake_entries(
            self.target,
            toolkit=self.toolkit.root,
            packages=self.shelf,
            headers=self.interpreter_home / "include" / f"python{self.python}",
        )

    @property
    def library_folders(self) -> tuple[Path, ...]:
        """Where the libraries lie that an extension is loaded with, or those of their names."""
        system = tuple(
            map(Path, ("/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64"))
        )
        sites = self.sites[1:] if self.target else self.sites
        return (
            self.torch_libraries,
            self.toolkit.root / "lib64",
            *(lib for site in sites for lib in sorted((site / "nvidia").glob("*/lib"))),
            *(library_folders(self.target) if self.target else system),
        )

    @property
    def identity(self) -> str:
        """What of it decides the bytes of an object: versions, not places."""
        parts = [self.machine, self.python, self.torch, self.toolkit.version, self.compiler]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def native_env(
    project: Project, base: Base, interpreter: str, python: str, *, offline: bool
) -> NativeEnv:
    """The build environment of a base; made in the cache if it isn't there."""
    compiler, told = host_compiler.identity(), host_compiler.told()
    shelf = torch_shelf(project, base, interpreter, python, offline=offline)
    requires = torch_requires(site_packages(shelf))
    check_torch(base, site_packages(shelf))
    packaged = toolkit.packaged_version(requires)
    found, refused = toolkit.machine_toolkit(base.cuda, toolkit.candidates())
    if found is None and packaged is None:
        raise no_packages(base, refused)
    wanted = [] if found else [f"cuda-toolkit[{','.join(toolkit.EXTRAS)}]=={packaged}"]

    def lay(folder: Path) -> None:
        if wanted:
            sites = [site_packages(folder), site_packages(shelf)]
            toolkit.lay_out(sites, folder / "toolkit", base.cuda)

    folder = tools(project, interpreter, shelf, wanted, lay, offline=offline)
    if found is None:
        root = folder / "toolkit"
        version = toolkit.nvcc_version(root / "bin" / "nvcc")
        why = f"NVIDIA's packages of CUDA {version}"
        why += f" ({'; '.join(refused)})" if refused else " (no nvcc on this machine)"
        found = toolkit.Toolkit(root=root, version=version, why=why)
    return NativeEnv(
        folder=folder,
        shelf=shelf,
        python=python,
        torch=base.torch,
        toolkit=found,
        compiler=compiler,
        told=told,
    )


def no_packages(base: Base, refused: list[str]) -> MachineError:
    return MachineError(
        f"torch {base.torch} doesn't name the CUDA packages it was built with, and no toolkit "
        f"of CUDA {base.cuda} is on this machine",
        means="; ".join(refused) + "." if refused else "There is no nvcc at all.",
        next=f"install CUDA {base.cuda} and name it: CUDA_HOME=DIR python build.py ...",
    )


def tools(
    project: Project,
    interpreter: str,
    shelf: Path,
    wanted: list[str],
    lay: Callable[[Path], None],
    *,
    named: str = "native",
    offline: bool,
) -> Path:
    """CMake, ninja and the wanted packages, with torch behind them; `lay` makes a toolkit of it."""
    lock = project.root / LOCK
    text = json.dumps([str(shelf), wanted, lock.read_text(encoding="utf-8")])
    key = f"{named}-" + hashlib.sha256(text.encode()).hexdigest()[:12]

    def make(folder: Path) -> None:
        step([interpreter, "-m", "venv", str(folder)], folder.parent, COMPILE)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", *QUIET_PIP]
        step([*pip, "--require-hashes", "-r", str(lock)], folder.parent, COMPILE)
        see_behind(folder, shelf)
        if wanted:
            step([*pip, *wanted], folder.parent, COMPILE)
        lay(folder)

    return kept(
        project,
        key,
        make,
        {"shelf": str(shelf), "wanted": wanted},
        offline=offline,
        room=TOOLS_BYTES,
        purpose=COMPILE,
    )


def torch_shelf(
    project: Project, base: Base, interpreter: str, python: str, *, offline: bool
) -> Path:
    """An environment with the base's torch: one that tests use, or a new one with it alone."""
    for ready in sorted((project.cache / "envs").glob(f"*/{READY}")):
        folder = ready.parent
        same_python = (folder / "lib" / f"python{python}").is_dir()
        if same_python and made_of(folder).get("torch") == base.torch:
            return folder
    needs = Needs(python=python, torch=base.torch, requirements=())
    return dependencies(project, interpreter, needs, offline=offline, purpose=COMPILE)


def torch_requires(site: Path) -> list[str]:
    """torch's Requires-Dist lines."""
    metadata = next(site.glob("torch-*.dist-info/METADATA"))
    found = HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
    return [str(line) for line in found.get_all("Requires-Dist", [])]


def check_torch(base: Base, site: Path) -> None:
    """A torch of another CUDA, or of none, compiles nothing that the base's wheel can hold."""
    text = (site / "torch" / "version.py").read_text(encoding="utf-8")
    if f"cuda: Optional[str] = '{base.cuda}'" in text or f"cuda = '{base.cuda}'" in text:
        return
    said = next((line for line in text.splitlines() if line.startswith("cuda")), "cuda = None")
    raise MachineError(
        f"torch {base.torch} in the cache says {said!r}; {base.tag} is built with CUDA {base.cuda}",
        means="It came from an index with another build of torch; vLLM's CMake would stop.",
        next="install from an index that has the CUDA build, or take upstream's binaries: "
        "--native none",
    )
