# SPDX-License-Identifier: Apache-2.0
"""Which build of torch is installed, by its version file, and what extensions miss in it.

torch isn't imported: a broken one can't be, and a whole one takes seconds.
"""

import importlib.util
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .fault import Fault, Kind
from .libraries import TORCHS_LIBRARIES, Lacks, Libraries, places
from .packages import Installed, install

_SAYS = re.compile(r"^(\w+)(?:\s*:[^=\n]+)?\s*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
# Without these vLLM doesn't start on CUDA; the others serve some models alone.
_CORE = re.compile(r"(_C|_C_stable_libtorch|_moe_C|_moe_C_stable_libtorch|cumem_allocator)\.")
_PYTHONS = re.compile(r"\.cpython-(\d+)")


@dataclass(frozen=True, kw_only=True)
class TorchBuild:
    """A torch: its version with the local part, the CUDA or ROCm it is built with, or None."""

    version: str
    cuda: str | None
    hip: str | None
    folder: Path


def find_torch() -> TorchBuild | None:
    """Read the version file of the torch that Python would import, None if there is none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    folder = Path(spec.origin).parent
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    says = dict(_SAYS.findall(text))
    return TorchBuild(
        version=says.get("__version__", "unknown"),
        cuda=says.get("cuda"),
        hip=says.get("hip"),
        folder=folder,
    )


def wheels_cuda(installed: Installed) -> str | None:
    """Return the CUDA that the wheel's extensions were built with, by the wheel's own record."""
    wheel = installed.first.get("vllm")
    try:
        record: Any = json.loads((wheel and wheel.read_text("sm12x/record.json")) or "{}")
    except ValueError:
        return None
    cuda = record.get("cuda") if isinstance(record, dict) else None
    return cuda if isinstance(cuda, str) else None


def wheels_torch(installed: Installed) -> str:
    """Return what to give pip for torch: as the wheel asks for it."""
    wheel = installed.first.get("vllm")
    for text in (wheel.requires or ()) if wheel else ():
        found = re.match(r"torch\s*\(?(==[\w.]+)", text)
        if found:
            return f"torch{found[1]}"
    return "torch"


def judge_build(torch: TorchBuild | None, wheel: str | None, installed: Installed) -> list[Fault]:
    """Judge torch's CUDA. `wheel` is the CUDA of the wheel's extensions, None if unknown."""
    if torch is None:
        return []
    again = wheels_torch(installed)
    if wheel:
        again += f"+cu{''.join(wheel.split('.')[:2])}"
    line = install([again], options="--force-reinstall --no-deps ")
    line += f"   # from the index of torch's builds for CUDA {wheel or '13'}, by --index-url"
    if torch.cuda is None:
        built = f"for ROCm {torch.hip}" if torch.hip else "for the CPU alone"
        return [
            Fault(
                kind=Kind.TORCH_CPU,
                what=f"torch {torch.version} is built {built}",
                means="it sees no GPU, and the wheel's extensions don't load beside it",
                next=line,
                stops=True,
            )
        ]
    if wheel is None or torch.cuda.split(".")[:2] == wheel.split(".")[:2]:
        return []
    other = torch.cuda.split(".")[0] != wheel.split(".")[0]
    means = (
        "the extensions want another version of CUDA's libraries than torch brings"
        if other
        else "nobody built them together, and torch wants libraries and a driver for the newer one"
    )
    return [
        Fault(
            kind=Kind.TORCH_CUDA,
            what=f"torch {torch.version} is built for CUDA {torch.cuda}, the wheel for {wheel}",
            means=means,
            next=line,
            stops=other,
        )
    ]  # fmt: skip


def judge_extensions(
    torch: TorchBuild | None, package: Path, site: Iterable[Path], again: str = "torch"
) -> list[Fault]:
    """Look for what the wheel's extensions take from torch and from CUDA's libraries.

    `again` is what to give pip for the torch that they are linked to.
    """
    if torch is None:
        return []
    libraries = Libraries(places([torch.folder.parent, *site]))
    files = [file for file in sorted(package.rglob("*.so")) if _for_this_python(file)]
    found = [lacks for file in files if (lacks := libraries.lacks(file, package))]
    faults = [_symbols([lacks for lacks in found if lacks.symbols], torch, again)]
    faults.append(_absent(found, again, without_torchs=torch.cuda is None))
    return [fault for fault in faults if fault is not None]


def _for_this_python(file: Path) -> bool:
    found = _PYTHONS.search(file.name)
    return found is None or found[1] == f"{sys.version_info.major}{sys.version_info.minor}"


def _symbols(found: list[Lacks], torch: TorchBuild, again: str) -> Fault | None:
    if not found:
        return None
    core = [lacks for lacks in found if _CORE.match(lacks.name)]
    worst = max(core or found, key=lambda lacks: len(lacks.symbols))
    more = f" ({len(found) - 1} more extensions lack some)" if len(found) > 1 else ""
    return Fault(
        kind=Kind.SYMBOLS,
        what=f"{len(worst.symbols)} of {worst.wanted} symbols of {worst.name} are in no library, "
        f"such as {worst.symbols[0]}{more}",
        means=f"it can't be loaded with torch {torch.version}: it was linked to another build",
        next=install([again], options="--force-reinstall "),
        stops=bool(core),
    )


def _absent(found: list[Lacks], again: str, *, without_torchs: bool) -> Fault | None:
    wanting: dict[str, list[str]] = {}
    for lacks in found:
        for name in lacks.libraries:
            # A build for the CPU has none of them, and that is told of the build.
            if not (without_torchs and TORCHS_LIBRARIES.match(name)):
                wanting.setdefault(name, []).append(lacks.name)
    if not wanting:
        return None
    users = list(dict.fromkeys(user for users in wanting.values() for user in users))
    core = [user for user in users if _CORE.match(user)]
    named = (core or users)[0] + (f" and {len(users) - 1} more" if len(users) > 1 else "")
    return Fault(
        kind=Kind.LIBRARY,
        what=f"{', '.join(sorted(wanting))} is in no folder where libraries are looked for",
        means=f"{named} of vLLM can't be loaded: torch's packages of CUDA's libraries aren't whole",
        next=install([again], options="--force-reinstall "),
        stops=bool(core),
    )
