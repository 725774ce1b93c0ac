# SPDX-License-Identifier: Apache-2.0
"""All the faults of this installation, those that keep vLLM from serving first."""

import sys
from dataclasses import dataclass
from pathlib import Path

from . import driver, packages, tools, torch_build
from .fault import Fault, Kind
from .packages import Installed, install


@dataclass(frozen=True, kw_only=True)
class Around:
    """What the doctor knows besides: of devices, of memory, of the paths that models take here.

    `torch_failure`: what importing torch ended with, or nothing. `available`: bytes of memory that
    a compiler can have, None if unknown. `deep_gemm`: models here go through DeepGEMM.
    """

    driver: str | None
    capability: tuple[int, int] | None
    deep_gemm: bool
    available: int | None
    torch_failure: str = ""


def found(around: Around, installed: Installed | None = None) -> tuple[Fault, ...]:
    """Look for faults. Empty where vLLM isn't installed: nothing says what would be right."""
    installed = packages.look() if installed is None else installed
    if "vllm" not in installed.first:
        return ()
    torch = torch_build.find_torch()
    wheel = torch_build.wheels_cuda(installed)
    faults = packages.judge(installed)
    faults += torch_build.judge_build(torch, wheel, installed)
    package = Path(str(installed.first["vllm"].locate_file("vllm")))
    site = [Path(folder) for folder in sys.path if folder and Path(folder).is_dir()]
    again = torch_build.wheels_torch(installed)
    faults += torch_build.judge_extensions(torch, package, site, again)
    if around.torch_failure and not any(fault.stops for fault in faults):
        faults.append(_broken(around.torch_failure, again))
    # What serves in the end is the wheel's CUDA, whatever torch is there now.
    cuda = wheel or (torch.cuda if torch else None)
    faults += driver.judge(around.driver, cuda)
    faults += tools.judge(
        tools.look(),
        cuda=cuda,
        capability=around.capability,
        deep_gemm=around.deep_gemm,
        available=around.available,
    )
    return tuple(sorted(faults, key=lambda fault: not fault.stops))


def _broken(failure: str, again: str) -> Fault:
    return Fault(
        kind=Kind.TORCH_BROKEN,
        what=f"importing torch ends with {failure}",
        means="vLLM imports it first",
        next=install([again], options="--force-reinstall "),
        stops=True,
    )
