# SPDX-License-Identifier: Apache-2.0
"""What this machine has for vLLM on SM12x, which paths models will take there, what to change.

python -m vllm.sm12x.doctor [--json]

Looks only: nothing is loaded onto a GPU, and neither vLLM's extensions nor FlashInfer are imported.
Exits 0 whatever it finds.
"""

import argparse
import json
from dataclasses import asdict

from .. import envs
from ..support.choice import KNOB, Cache, Choice, Route, decide, vllm_refuses
from ..support.flashinfer import FlashInfer
from ..support.gemm import SUBJECT, DeepGemm, decide_for_release
from .binaries import Extension, Verdict
from .machine import Device, Facts, gather

# The first Triton that makes FP8 matrix instructions on sm_121; older ones widen the operands to 16
# bits without a word.
FP8_ON_SM121 = (3, 8)
NO_VLLM = "vLLM isn't installed, so no path can be told"
MODELS = {
    "DeepSeek V4": (Cache.V4, 512, 64),
    "DeepSeek V3.2, GLM-5.x": (Cache.V32, 2048, 64),
    "GLM without RoPE": (Cache.V32, 2048, 0),
}


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
            rope_dim=rope,
            refusal=vllm_refuses(version, layout=layout, index_topk=topk, rope_dim=rope)
            or facts.flashinfer.refuses(rope_dim=rope),
            danger=facts.flashinfer.danger,
        )
        for model, (layout, topk, rope) in MODELS.items()
    }


def choose_gemm(facts: Facts, device: Device | None, forced: bool | None) -> Choice | None:
    """Return which path the functions beside attention take, or None where vLLM isn't installed."""
    version = facts.versions["vllm"]
    if version is None:
        return None
    return decide_for_release(
        version,
        is_cuda=facts.is_cuda and device is not None,
        capability=device.capability if device else None,
        forced=forced,
        found=facts.deep_gemm,
    )


def advise(facts: Facts, found: dict[str, Choice], gemm: Choice | None) -> tuple[str, ...]:
    """Return what to change, most pressing first."""
    advice = [f"Mend a variable. {knob.problem}" for knob in facts.knobs if knob.problem]
    advice += [
        f"{name} is set, and nothing reads it: is it misspelt?" for name in facts.unknown_knobs
    ]
    for model, choice in found.items():
        if choice.path is Route.NONE:
            advice.append(f"Nothing can serve {model}: {choice.why}.")
    if gemm is not None and gemm.path is Route.NONE:
        advice.append(f"{SUBJECT}: nothing can serve them, because {gemm.why}.")
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


def report(
    facts: Facts, found: dict[str, Choice], gemm: Choice | None, advice: tuple[str, ...]
) -> str:
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
    lines.append(f"  DeepGEMM for SM12x: {_deep_gemm(facts.deep_gemm)}")
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
        lines.append(f"  {NO_VLLM}")
    lines.append("Beside attention")
    told = NO_VLLM if gemm is None else f"{SUBJECT}: {gemm.path.value}, because {gemm.why}"
    lines.append(f"  {told}")
    lines.append("To change")
    lines += [f"  {item}" for item in advice] or ["  nothing"]
    return "\n".join(lines)


def _flashinfer(found: FlashInfer) -> str:
    return found.refuses(rope_dim=64) or found.danger or "nothing speaks against it"


def _deep_gemm(found: DeepGemm) -> str:
    if not found.installed:
        return "not installed"
    return "kernels" if found.kernels else "no kernels"


def _extension(extension: Extension, devices: tuple[Device, ...]) -> str:
    if extension.sass is None or extension.ptx is None:
        return Verdict.UNKNOWN.value
    holds = [f"sm_{target}" for target in extension.sass]
    holds += [f"compute_{target} (PTX)" for target in extension.ptx]
    if not holds:
        return Verdict.NO_GPU_CODE.value
    verdicts = [f"{d.name}: {extension.verdict(d.capability).value}" for d in devices]
    return "; ".join([" ".join(holds), *dict.fromkeys(verdicts)])


def _path(choice: Choice) -> dict[str, str]:
    return {"path": choice.path.value, "why": choice.why}


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
    gemm = choose_gemm(facts, device, forced)
    advice = advise(facts, found, gemm)
    if not options.json:
        print(report(facts, found, gemm, advice))
        return 0
    document = {
        "schema": 1,
        **asdict(facts),
        "paths": {model: _path(choice) for model, choice in found.items()},
        "gemm_path": None if gemm is None else _path(gemm),
        "advice": advice,
    }
    print(json.dumps(document))
    return 0
