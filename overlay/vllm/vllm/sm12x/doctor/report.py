# SPDX-License-Identifier: Apache-2.0
"""What this machine has for vLLM on SM12x, which paths models will take there, what to change.

Pure: of what `machine` found it makes paths, advice and text.
"""

from ..support.choice import Choice, Route
from ..support.flashinfer import FlashInfer, missing
from ..support.gemm import SUBJECT, DeepGemm, decide_for_release
from ..support.models import Row, paths
from . import host_memory
from .binaries import Extension, Verdict
from .machine import Device, Facts

# The first Triton that makes FP8 matrix instructions on sm_121; older ones widen the operands to 16
# bits without a word.
FP8_ON_SM121 = (3, 8)
NO_VLLM = "vLLM isn't installed, so no path can be told"


def choices(facts: Facts, device: Device | None, forced: bool | None) -> tuple[Row, ...]:
    """Return which path each kind of model takes on a device of this machine.

    Empty where vLLM isn't installed.
    """
    version = facts.versions["vllm"]
    if version is None:
        return ()
    unusable = facts.flashinfer_unusable and not facts.flashinfer.problem
    return paths(
        vllm_version=version,
        found=missing(facts.flashinfer_unusable) if unusable else facts.flashinfer,
        shapes=facts.flashinfer_shapes,
        is_cuda=facts.is_cuda and device is not None,
        capability=device.capability if device else None,
        forced=forced,
    )


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


def advise(facts: Facts, found: tuple[Row, ...], gemm: Choice | None) -> tuple[str, ...]:
    """Return what to change, most pressing first."""
    advice = [f"Mend a variable. {knob.problem}" for knob in facts.knobs if knob.problem]
    advice += [
        f"{name} is set, and nothing reads it: is it misspelt?" for name in facts.unknown_knobs
    ]
    for models, choice in grouped(found):
        if choice.path is Route.NONE and choice.unexpected:
            advice.append(f"Nothing can serve {models}: {choice.why}.")
    if gemm is not None and gemm.path is Route.NONE:
        advice.append(f"{SUBJECT}: nothing can serve them, because {gemm.why}.")
    if facts.sm12x and facts.flashinfer_unusable and not facts.flashinfer.problem:
        advice.append(f"Install nvcc or flashinfer-cubin: {facts.flashinfer_unusable}.")
    if facts.flashinfer.hangs and any(row.choice.path is Route.UPSTREAM for row in found):
        advice.append("Take FlashInfer 0.6.18 or newer: on SM12x this one's sparse MLA can hang.")
    triton = facts.versions["triton"]
    on_sm121 = any(d.capability == (12, 1) for d in facts.sm12x)
    if on_sm121 and triton and _numbers(triton) < FP8_ON_SM121:
        advice.append(
            f"Triton {triton} widens FP8 operands of products to 16 bits on sm_121, which makes "
            "vLLM's own FP8 kernels in Triton slower; 3.8 and newer don't. It comes with torch. "
            "Sparse MLA isn't affected: it computes in bfloat16 anyway."
        )
    if facts.memory is not None and any(device.integrated for device in facts.devices):
        advice += host_memory.changes(facts.memory)
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
    facts: Facts, found: tuple[Row, ...], gemm: Choice | None, advice: tuple[str, ...]
) -> str:
    """Return all of it as text."""
    lines = ["Devices"]
    for device in facts.devices:
        major, minor = device.capability
        lines.append(f"  {device.name}, capability {major}.{minor}, {device.memory_gib:.0f} GiB")
    if not facts.sm12x:
        lines.append("  no device of capability 12.x: nothing of the overlay's runs on a GPU here")
    lines.append(f"  driver {facts.driver or 'not found'}")
    lines.append("Host memory")
    lines += [f"  {line}" for line in (host_memory.shown(facts.memory) if facts.memory else ())]
    if facts.memory is not None and any(device.integrated for device in facts.devices):
        safe = host_memory.safe_utilization(facts.memory)
        lines.append(f"  the GPU shares it: --gpu-memory-utilization {safe:.2f} fits what is free")
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
    lines += path_lines(found)
    lines.append("Beside attention")
    told = NO_VLLM if gemm is None else f"{SUBJECT}: {gemm.path.value}, because {gemm.why}"
    lines.append(f"  {told}")
    lines.append("To change")
    said = [*map(str, facts.faults), *advice]
    lines += [f"  {item}" for item in said] or ["  nothing"]
    if any(fault.stops for fault in facts.faults):
        lines.append("vLLM can't serve here before that is changed.")
    return "\n".join(lines)


def grouped(found: tuple[Row, ...]) -> list[tuple[str, Choice]]:
    """Return models that take a path for the same reason together, named in one text."""
    together: dict[Choice, list[Row]] = {}
    for row in found:
        together.setdefault(row.choice, []).append(row)
    return [(", ".join(_names(rows)), choice) for choice, rows in together.items()]


def _names(rows: list[Row]) -> list[str]:
    kinds: dict[str, set[bool]] = {}
    for row in rows:
        kinds.setdefault(row.model, set()).add(row.speculation)
    named = {True: " with speculative decoding", False: " without speculative decoding"}
    return [name + (named[min(is_)] if len(is_) == 1 else "") for name, is_ in kinds.items()]


def path_lines(found: tuple[Row, ...]) -> list[str]:
    """Return the paths as lines of text."""
    lines = [f"  {models}: {c.path.value}, because {c.why}" for models, c in grouped(found)]
    return lines or [f"  {NO_VLLM}"]


def path_rows(found: tuple[Row, ...]) -> list[dict[str, object]]:
    """Return the paths as JSON has them."""
    return [
        {"model": row.model, "speculation": row.speculation, **as_json(row.choice)} for row in found
    ]


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


def as_json(choice: Choice) -> dict[str, str]:
    """Return a path as JSON has it."""
    return {"path": choice.path.value, "why": choice.why}
