# SPDX-License-Identifier: Apache-2.0
"""The driver and the devices as nvidia-smi tells them, and the CUDA that the driver is for."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from .fault import Fault, Kind

TIMEOUT_SECONDS = 30
# The oldest driver for any minor version of a CUDA: CUDA's release notes, "minor version
# compatibility". Later majors aren't known here, and nothing is said of them.
OLDEST = {12: (525, 60), 13: (580, 65)}
COMPATIBILITY = "VLLM_ENABLE_CUDA_COMPATIBILITY"


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU. `memory_mib` is None where it has none of its own."""

    name: str
    capability: tuple[int, int] | None
    memory_mib: int | None


@dataclass(frozen=True, kw_only=True)
class Driver:
    """The driver's version as it is written, and its GPUs."""

    version: str
    cards: tuple[Card, ...]


def ask() -> Driver | None:
    """Ask nvidia-smi; None where it isn't there, or has no driver to ask."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    fields = "driver_version,compute_cap,memory.total,name"
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split(", ", 3) for line in done.stdout.splitlines()]
    rows = [row for row in rows if len(row) == 4 and re.match(r"\d+\.\d+", row[0])]
    if done.returncode or not rows:
        return None
    return Driver(version=rows[0][0], cards=tuple(_card(*row[1:]) for row in rows))


def _card(capability: str, memory: str, name: str) -> Card:
    known = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return Card(
        name=name.strip(),
        capability=(int(known[1]), int(known[2])) if known else None,
        memory_mib=int(memory) if memory.isdigit() else None,
    )


def judge(driver: str | None, cuda: str | None) -> list[Fault]:
    """Hold a driver to the CUDA that torch and the wheel are built with."""
    found = re.match(r"(\d+)\.(\d+)", driver or "")
    oldest = OLDEST.get(int(cuda.split(".")[0])) if cuda else None
    if found is None or oldest is None or (int(found[1]), int(found[2])) >= oldest:
        return []
    wanted = ".".join(map(str, oldest))
    compatible = os.environ.get(COMPATIBILITY) == "1"
    return [
        Fault(
            kind=Kind.DRIVER,
            what=f"driver {driver} is older than {wanted}, the first for CUDA {cuda}",
            means=f"{COMPATIBILITY} is 1: it serves only cards that CUDA's package of "
            "compatibility is for" if compatible
            else "CUDA doesn't start, and no GPU is seen",
            next=f"apt-get install nvidia-open   # as root: a driver of {wanted} or newer; reboot",
            stops=not compatible,
        )
    ]  # fmt: skip
