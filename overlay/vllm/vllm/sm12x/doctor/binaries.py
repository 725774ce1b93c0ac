# SPDX-License-Identifier: Apache-2.0
"""What GPU code the installed extensions of vLLM hold, as `cuobjdump` lists it."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

TIMEOUT_SECONDS = 120
# Where packages of Python bring the tool: CUDA's own, then Triton's.
PACKAGED = (
    "nvidia/cu*/bin/cuobjdump",
    "nvidia/cuda_cuobjdump/bin/cuobjdump",
    "triton/backends/nvidia/bin/cuobjdump",
)


class Verdict(str, Enum):
    """How an extension can run on a device."""

    NATIVE = "native"
    SAME_MAJOR = "runs code of an earlier minor version"
    PTX = "PTX only, compiled by the driver"
    NO_CODE = "no code for it"
    NO_GPU_CODE = "holds no GPU code"
    UNKNOWN = "not examined"


@dataclass(frozen=True, kw_only=True)
class Extension:
    """One shared object: the targets of its machine code and of its PTX, such as 120 or 90a.

    Both are None when it wasn't examined. 120 may be 120f: the list doesn't tell them apart.
    """

    name: str
    sass: tuple[str, ...] | None
    ptx: tuple[str, ...] | None

    def verdict(self, capability: tuple[int, int]) -> Verdict:
        """Judge for a device by CUDA's rules; an `a` target runs on its own device alone."""
        if self.sass is None or self.ptx is None:
            return Verdict.UNKNOWN
        if not self.sass and not self.ptx:
            return Verdict.NO_GPU_CODE
        major, minor = capability
        own = f"{major}{minor}"
        if own in self.sass or f"{own}a" in self.sass or f"{own}f" in self.sass:
            return Verdict.NATIVE
        portable = [int(target) for target in self.sass if target.isdigit()]
        portable += [int(target[:-1]) for target in self.sass if target.endswith("f")]
        if any(divmod(target, 10) < capability and target // 10 == major for target in portable):
            return Verdict.SAME_MAJOR
        # PTX for 120f is for its family, that for 120a for its own device.
        plain = [divmod(int(target), 10) for target in self.ptx if target.isdigit()]
        family = [divmod(int(target[:-1]), 10) for target in self.ptx if target.endswith("f")]
        family = [target for target in family if target[0] == major]
        if f"{own}a" in self.ptx or any(target <= capability for target in plain + family):
            return Verdict.PTX
        return Verdict.NO_CODE


def find_cuobjdump(site_packages: Iterable[Path]) -> Path | None:
    """Look on the path, then in the packages of CUDA and Triton."""
    on_path = shutil.which("cuobjdump")
    if on_path:
        return Path(on_path)
    found = (tool for folder in site_packages for where in PACKAGED for tool in folder.glob(where))
    return next(found, None)


def examine(package: Path, tool: Path | None) -> tuple[Extension, ...]:
    """List the extensions below vLLM's folder, with what `tool` finds in each."""
    files = sorted(package.rglob("*.so"))
    return tuple(
        Extension(
            name=str(file.relative_to(package)),
            sass=_targets(tool, "--list-elf", "cubin", file),
            ptx=_targets(tool, "--list-ptx", "ptx", file),
        )
        for file in files
    )


def _targets(tool: Path | None, option: str, kind: str, file: Path) -> tuple[str, ...] | None:
    """The targets in a listing such as `ELF file 1: moe.1.sm_120.cubin`, or None without one."""
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [str(tool), option, str(file)], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.findall(rf"\.sm_(\d+[af]?)\.{kind}$", done.stdout, re.MULTILINE)
    # The tool fails where there is nothing to list, and says so.
    if done.returncode and "does not contain device code" not in done.stdout + done.stderr:
        return None
    return tuple(sorted(set(found), key=lambda target: (int(target.rstrip("af")), target)))
