# SPDX-License-Identifier: Apache-2.0
"""Recipes for `vllm serve` that fit this machine, and the commands that start one.

python -m vllm.sm12x.recipes [NAME] [--devices 2x12.1] [--release 0.33.0] [--all] [--json]

Without a name it lists the recipes for the devices that nvidia-smi shows here and for the vLLM that
is installed; with one it prints what to type for it. Recipes of several machines are listed where
this machine is one of them. Nothing is started. Exits 2 when there is no such recipe, else 0.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from ..doctor.faults import driver
from ..support.flashinfer import release_of
from .recipe import Recipe, every

USAGE = 2
FIRST = "10.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a recipe must fit: GPUs of one kind, and a release of vLLM. None: not known."""

    count: int | None
    capability: tuple[int, int] | None
    release: tuple[int, ...] | None


def devices(text: str) -> tuple[int, tuple[int, int]]:
    """Read GPUs as they are written, 2x12.1."""
    found = re.fullmatch(r"(\d+)\s*x\s*(\d+)\.(\d)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} are no devices; write them as 2x12.1")
    return int(found[1]), (int(found[2]), int(found[3]))


def here() -> tuple[int | None, tuple[int, int] | None]:
    """Return how many GPUs of capability 12.x this machine has, and which, by nvidia-smi."""
    asked = driver.ask()
    found = [card.capability for card in (asked.cards if asked else ()) if card.capability]
    found = [capability for capability in found if capability[0] == 12]
    return (found.count(found[0]), found[0]) if found else (None, None)


def installed() -> tuple[int, ...] | None:
    """Return the release of the vLLM that is installed."""
    try:
        return release_of(version("vllm")) or None
    except PackageNotFoundError:
        return None


def fits(recipe: Recipe, machine: Machine) -> bool:
    """Return whether a recipe is for a machine; what isn't known of that speaks against nothing."""
    if machine.release is not None and not recipe.bases.has(machine.release):
        return False
    if machine.capability is None or machine.count is None:
        return True
    each = recipe.count // recipe.nodes
    return recipe.capability == machine.capability and each <= machine.count


def commands(recipe: Recipe, release: tuple[int, ...] | None) -> list[str]:
    """Return the lines to type; behind each `#` a reason."""
    lines = []
    for one in recipe.variables:
        said = f"unset {one.name}" if one.value is None else f"export {one.name}={one.value}"
        lines.append(f"{said}   # {one.why}")
    words = recipe.words(release) if release is not None else []
    serve = " ".join(["vllm serve --config", str(recipe.path), *words])
    if recipe.ray:
        lines += [
            f"ray start --head --node-ip-address {FIRST}   # on the first machine: its address",
            f"ray start --address {FIRST}:6379   # on each of the others",
            f"{serve}   # on the first machine, when `ray status` shows {recipe.nodes}",
        ]
    elif recipe.nodes > 1:
        lines.append(f"# {FIRST} stands for the first machine's address on the link between them")
        for rank in range(recipe.nodes):
            headless = " --headless" if rank else ""
            lines.append(
                f"{serve} --node-rank {rank} --master-addr {FIRST}{headless}"
                f"   # on machine {rank + 1}"
            )
    else:
        lines.append(serve)
    return lines


def shown(recipe: Recipe, release: tuple[int, ...] | None) -> str:
    """Return all that is known of a recipe, and how to start it."""
    major, minor = recipe.capability
    machines = f" in {recipe.nodes} machines" if recipe.nodes > 1 else ""
    lines = [
        f"{recipe.name}: {recipe.model}",
        f"  {recipe.count} x capability {major}.{minor}{machines}; vLLM {recipe.bases.text}",
        f"  memory: {recipe.memory}",
        f"  measured: {recipe.measured}",
        *(f"  reported by others: {text}" for text in recipe.reported),
        "",
        *commands(recipe, release),
        "",
        "python -m vllm.sm12x.soak http://localhost:8000   # do its answers stay right under load?",
    ]
    return "\n".join(lines)


def _document(recipe: Recipe, release: tuple[int, ...] | None) -> dict[str, object]:
    return {
        "name": recipe.name,
        "file": str(recipe.path),
        "model": recipe.model,
        "devices": recipe.count,
        "capability": ".".join(map(str, recipe.capability)),
        "nodes": recipe.nodes,
        "bases": recipe.bases.text,
        "memory": recipe.memory,
        "measured": recipe.measured,
        "reported": list(recipe.reported),
        "commands": commands(recipe, release),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm.sm12x.recipes", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("name", nargs="?", help="a recipe: print what to type for it")
    parser.add_argument("--devices", type=devices, metavar="NxMAJOR.MINOR", help="such as 2x12.1")
    parser.add_argument("--release", metavar="X.Y.Z", help="a vLLM that isn't installed here")
    parser.add_argument("--all", action="store_true", help="whatever this machine is")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    options = parser.parse_args(arguments)
    if options.release and not release_of(options.release):
        parser.error(f"--release {options.release!r} is no release; write it as 0.33.0")
    count, capability = options.devices or here()
    release = release_of(options.release) if options.release else installed()
    machine = Machine(count=count, capability=capability, release=release)
    found = [one for one in every() if options.name in (None, one.name)]
    if not found:
        print(f"recipes: there is no {options.name}. Type: python -m vllm.sm12x.recipes --all",
              file=sys.stderr)  # fmt: skip
        return USAGE
    if options.name is None and not options.all:
        found = [one for one in found if fits(one, machine)]
    if options.json:
        print(json.dumps({"schema": 1, "recipes": [_document(one, release) for one in found]}))
    elif options.name is not None:
        print(shown(found[0], release))
    else:
        print("\n".join(listing(found, machine)))
    return 0


def listing(found: list[Recipe], machine: Machine) -> list[str]:
    """Return a line for each recipe, and what to type next."""
    lines = []
    if machine.capability is None:
        lines.append("No GPU of capability 12.x here, so these are for any; --devices names others")
    if machine.release is None:
        lines.append("vLLM isn't installed here, so these are for any release; --release names one")
    for one in found:
        machines = f", {one.nodes} machines" if one.nodes > 1 else ""
        what = f"{one.count} x {one.capability[0]}.{one.capability[1]}{machines}"
        lines.append(f"{one.name:42} {what:22} vLLM {one.bases.text}")
    lines += ["none of the recipes; --all lists them"] * (not found)
    lines += ["next: python -m vllm.sm12x.recipes NAME"] * bool(found)
    return lines
