# SPDX-License-Identifier: Apache-2.0
"""What this machine has for vLLM on SM12x, which paths models will take there, what to change.

python -m vllm.sm12x.doctor [--json]

Looks only: nothing is loaded onto a GPU, and neither vLLM's extensions nor FlashInfer are imported.
Exits 0 whatever it finds.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import envs
from .binaries import Extension, Verdict, examine, find_cuobjdump
from .support import (
    KNOB,
    Cache,
    Choice,
    FlashInfer,
    Route,
    calls_flashinfer,
    decide,
    find_flashinfer,
)

PACKAGES = ("vllm", "torch", "triton", "flashinfer-python")
PREFIXES = ("VLLM_TRITON_MLA_SPARSE", "VLLM_SM12X_", "VLLM_SM120_")
# The first Triton that makes FP8 matrix instructions on sm_121; older ones widen the operands to 16
# bits without a word.
FP8_ON_SM121 = (3, 8)
MODELS = {
    "DeepSeek V4": (Cache.V4, 512, 64),
    "DeepSeek V3.2, GLM-5.x": (Cache.V32, 2048, 64),
    "GLM without RoPE": (Cache.V32, 2048, 0),
}


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU, as torch sees it."""

    name: str
    capability: tuple[int, int]
    memory_gib: float


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A variable of the overlay: its value, where that comes from, and what is wrong with it."""

    name: str
    value: Any
    origin: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that was found. `versions` has None for what isn't installed.

    `examined`: a tool was there to look into the extensions.
    """

    devices: tuple[Device, ...]
    is_cuda: bool
    driver: str | None
    versions: dict[str, str | None]
    flashinfer: FlashInfer
    extensions: tuple[Extension, ...]
    examined: bool
    knobs: tuple[Knob, ...]
    unknown_knobs: tuple[str, ...]

    @property
    def sm12x(self) -> tuple[Device, ...]:
        """The devices that the overlay is for."""
        return tuple(d for d in self.devices if self.is_cuda and d.capability[0] == 12)


def gather() -> Facts:
    """Look at this machine."""
    is_cuda, devices = _devices()
    package = Path(__file__).parents[1]
    site = [Path(folder) for folder in sys.path if folder]
    tool = find_cuobjdump(site)
    versions = {name: _version(name) for name in PACKAGES}
    return Facts(
        devices=devices,
        is_cuda=is_cuda,
        driver=_driver(),
        versions=versions,
        flashinfer=find_flashinfer(),
        extensions=examine(package, tool),
        examined=tool is not None,
        knobs=read_knobs(),
        unknown_knobs=unknown_knobs(),
    )


def _devices() -> tuple[bool, tuple[Device, ...]]:
    """Whether torch is built for CUDA (not ROCm), and its devices."""
    if importlib.util.find_spec("torch") is None:
        return False, ()
    import torch

    if not torch.cuda.is_available():
        return torch.version.cuda is not None, ()
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    devices = (
        Device(name=d.name, capability=(d.major, d.minor), memory_gib=round(d.total_memory / 2**30))
        for d in found
    )
    return torch.version.cuda is not None, tuple(devices)


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_knobs() -> tuple[Knob, ...]:
    """Read every variable of the overlay, without a warning."""
    found = []
    for variable in envs.VARIABLES + envs.CHANGED:
        reading = variable.read()
        shown = variable.shown or reading.value
        value = reading.value if reading.name and not reading.problem else shown
        origin = reading.origin.value
        if reading.origin is envs.Origin.ALIAS:
            origin = f"{origin} {reading.name}"
        found.append(Knob(name=variable.name, value=value, origin=origin, problem=reading.problem))
    return tuple(found)


def unknown_knobs() -> tuple[str, ...]:
    """Return what is set and looks like one of the overlay's variables, but isn't."""
    known = {name for v in envs.VARIABLES + envs.CHANGED for name in (v.name, *v.aliases)}
    return tuple(sorted(n for n in os.environ if n.startswith(PREFIXES) and n not in known))


def choices(facts: Facts, device: Device | None, forced: bool | None) -> dict[str, Choice]:
    """Return which path each kind of model takes on a device.

    For V4, vLLM asks FlashInfer about the number of heads besides, which a model has to be known
    for. Empty where vLLM isn't installed.
    """
    version = facts.versions["vllm"]
    if version is None:
        return {}
    return {
        model: decide(
            is_cuda=facts.is_cuda and device is not None,
            capability=device.capability if device else None,
            forced=forced,
            layout=layout,
            index_topk=topk,
            rope_dim=rope,
            calls_flashinfer=calls_flashinfer(version),
            has_flashinfer_kernels=facts.flashinfer.kernels,
            flashinfer_hangs=facts.flashinfer.hangs,
        )
        for model, (layout, topk, rope) in MODELS.items()
    }


def advise(facts: Facts, found: dict[str, Choice]) -> tuple[str, ...]:
    """Return what to change, most pressing first."""
    advice = [f"Mend a variable. {knob.problem}" for knob in facts.knobs if knob.problem]
    advice += [
        f"{name} is set, and nothing reads it: is it misspelt?" for name in facts.unknown_knobs
    ]
    for model, choice in found.items():
        if choice.path is Route.NONE:
            advice.append(f"Nothing can serve {model}: {choice.why}.")
    if facts.flashinfer.hangs and any(c.path is Route.UPSTREAM for c in found.values()):
        advice.append("Take FlashInfer 0.6.18 or newer: on SM12x this one's sparse MLA can hang.")
    triton = facts.versions["triton"]
    on_sm121 = any(d.capability == (12, 1) for d in facts.sm12x)
    if on_sm121 and triton and _numbers(triton) < FP8_ON_SM121:
        advice.append(
            f"Triton {triton} widens FP8 operands of products to 16 bits on sm_121, which makes "
            "vLLM's own FP8 kernels in Triton slower; 3.8 and newer don't. It comes with torch. "
            "Sparse MLA isn't affected: it computes in bfloat16 anyway."
        )
    for device in facts.sm12x[:1]:
        bad = [e for e in facts.extensions if e.verdict(device.capability) is Verdict.NO_CODE]
        bad += [e for e in facts.extensions if e.verdict(device.capability) is Verdict.PTX]
        for extension in bad:
            verdict = extension.verdict(device.capability).value
            advice.append(f"Build {extension.name} for {device.name}: {verdict}.")
    return tuple(advice)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def report(facts: Facts, found: dict[str, Choice], advice: tuple[str, ...]) -> str:
    """Return all of it as text."""
    lines = ["Devices"]
    for device in facts.devices:
        major, minor = device.capability
        lines.append(f"  {device.name}, capability {major}.{minor}, {device.memory_gib:.0f} GiB")
    if not facts.sm12x:
        lines.append("  no device of capability 12.x: nothing of the overlay's runs on a GPU here")
    lines.append(f"  driver {facts.driver or 'not found'}")
    lines.append("Versions")
    lines += [f"  {name} {version or 'not installed'}" for name, version in facts.versions.items()]
    lines.append(f"  FlashInfer's sparse MLA for SM12x: {_flashinfer(facts.flashinfer)}")
    lines.append("Extensions" + ("" if facts.examined else " (not examined: no cuobjdump here)"))
    for extension in facts.extensions:
        lines.append(f"  {extension.name}: {_extension(extension, facts.sm12x)}")
    if not facts.extensions:
        lines.append("  none: this is the overlay alone")
    lines.append("Variables")
    lines += [f"  {knob.name} = {knob.value} ({knob.origin})" for knob in facts.knobs]
    lines.append("Sparse MLA")
    for model, choice in found.items():
        lines.append(f"  {model}: {choice.path.value}, because {choice.why}")
    if not found:
        lines.append("  vLLM isn't installed, so no path can be told")
    lines.append("To change")
    lines += [f"  {item}" for item in advice] or ["  nothing"]
    return "\n".join(lines)


def _flashinfer(found: FlashInfer) -> str:
    if not found.kernels:
        return "no kernels"
    return "kernels that can hang" if found.hangs else "kernels"


def _extension(extension: Extension, devices: tuple[Device, ...]) -> str:
    if extension.sass is None or extension.ptx is None:
        return Verdict.UNKNOWN.value
    holds = [f"sm_{target}" for target in extension.sass]
    holds += [f"compute_{target} (PTX)" for target in extension.ptx]
    if not holds:
        return Verdict.NO_GPU_CODE.value
    verdicts = [f"{d.name}: {extension.verdict(d.capability).value}" for d in devices]
    return "; ".join([" ".join(holds), *dict.fromkeys(verdicts)])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code, 0."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm.sm12x.doctor", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    options = parser.parse_args(arguments)
    facts = gather()
    device = (*facts.sm12x, *facts.devices, None)[0]
    # Read without the warning that `envs.get` gives; what is invalid is in the report.
    (forced,) = (v.read().value for v in envs.VARIABLES if v.name == KNOB)
    found = choices(facts, device, forced)
    advice = advise(facts, found)
    if not options.json:
        print(report(facts, found, advice))
        return 0
    paths = {model: {"path": c.path.value, "why": c.why} for model, c in found.items()}
    print(json.dumps({"schema": 1, **asdict(facts), "paths": paths, "advice": advice}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
