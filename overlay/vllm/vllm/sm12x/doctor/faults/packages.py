# SPDX-License-Identifier: Apache-2.0
"""What is installed, held against what the wheel asks for in its own metadata.

The rules for versions and markers are those of the `packaging` library. It may be missing as well;
then pip's copy of it is taken, and without that only what is missing and exact pins are judged.
"""

import contextlib
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from .fault import Fault, Kind

# Their own requirements are held to as well: torch names Triton and CUDA's libraries.
ASKED = ("vllm", "torch", "flashinfer-python")
FLASHINFER = "flashinfer-python"
FLASHINFER_PARTS = ("flashinfer-cubin", "flashinfer-jit-cache")
UNCHECKED = "FLASHINFER_DISABLE_VERSION_CHECK"
# These have a part compiled against each other: any other release can't be loaded, or misbehaves.
EXACT = frozenset({"torch", "triton", FLASHINFER})
NAMED = 8
_HEAD = re.compile(r"^([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?$")


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The packages that Python would import: the first of each name on the path.

    `twice` has names with more than one metadata folder in one place.
    """

    first: dict[str, Distribution]
    twice: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def version(self, name: str) -> str | None:
        """Return the version of a package, None if it isn't there."""
        found = self.first.get(name)
        return found.version if found else None


def look(path: list[str] | None = None) -> Installed:
    """Read the metadata on `path` (sys.path if None). What can't be read isn't installed."""
    first: dict[str, Distribution] = {}
    places: dict[tuple[str, str], list[str]] = {}
    for found in distributions(path=path) if path is not None else distributions():
        name, version = found.metadata["Name"], found.metadata["Version"]
        if not name or not version:  # a folder that an uninstall left behind
            continue
        first.setdefault(canonical(name), found)
        place = (canonical(name), os.path.realpath(str(found.locate_file(""))))
        versions = places.setdefault(place, [])
        if version not in versions:
            versions.append(version)
    twice = {name: tuple(sorted(v)) for (name, _), v in places.items() if len(v) > 1}
    return Installed(first=first, twice=twice)


def rules() -> Any:
    """Return the class that reads a requirement, or None where no library has it."""
    with contextlib.suppress(ImportError):
        from packaging.requirements import Requirement

        return Requirement
    with contextlib.suppress(ImportError):
        from pip._vendor.packaging.requirements import Requirement as PipsRequirement

        return PipsRequirement
    return None


@dataclass(frozen=True, kw_only=True)
class Need:
    """A requirement: `by` asks for `name` in a version of `specifier`, or in any."""

    by: str
    name: str
    specifier: str
    met: bool
    installed: str | None

    @property
    def words(self) -> str:
        """The requirement as pip takes it."""
        return f"{self.name}{self.specifier}"


def needs(installed: Installed) -> Iterator[Need]:
    """Yield what the wheel, and what it stands on, asks for on this machine."""
    reader = rules()
    for by in ASKED:
        asking = installed.first.get(by)
        for text in (asking.requires or ()) if asking else ():
            yield from _read(by, text, installed, reader)


def _read(by: str, text: str, installed: Installed, reader: Any) -> Iterator[Need]:
    if reader is None:
        yield from _read_plainly(by, text, installed)
        return
    try:
        wanted = reader(text)
    except ValueError:
        return
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return
    name = canonical(wanted.name)
    version = installed.version(name)
    try:
        met = version is not None and wanted.specifier.contains(version, prereleases=True)
    except ValueError:  # a version that is none
        met = False
    yield Need(by=by, name=name, specifier=str(wanted.specifier), met=met, installed=version)


def _read_plainly(by: str, text: str, installed: Installed) -> Iterator[Need]:
    """Without a library: no markers, so what has one is left out, and exact pins alone."""
    found = _HEAD.match(text)
    if found is None or found[4]:
        return
    name, specifier = canonical(found[1]), found[3].replace(" ", "")
    version = installed.version(name)
    exact = re.fullmatch(r"==([\w.!]+)", specifier)
    met = version is not None and (exact is None or version.partition("+")[0] == exact[1])
    yield Need(by=by, name=name, specifier=specifier, met=met, installed=version)


def wheel_of(installed: Installed) -> str:
    """Return what to give pip for the wheel: its file where pip noted it, else its name."""
    wheel = installed.first["vllm"]
    noted = re.search(r'"url":\s*"file://([^"]+\.whl)"', wheel.read_text("direct_url.json") or "")
    if noted and Path(noted[1]).is_file():
        return shlex.quote(noted[1])
    tag = re.search(r"^Tag: (\S+)$", wheel.read_text("WHEEL") or "", re.MULTILINE)
    name = f"vllm-{wheel.version}-{tag[1]}.whl" if tag else f"the wheel of vllm {wheel.version}"
    return f"dist/{name}" if tag else name


def install(words: Iterable[str], *, options: str = "") -> str:
    """Return the line that installs packages into this environment."""
    return f"python -m pip install {options}{' '.join(map(shlex.quote, words))}"


def judge(installed: Installed) -> list[Fault]:
    """Return the faults of packages; nothing where vLLM itself isn't installed."""
    if "vllm" not in installed.first:
        return []
    found = [_doubled(name, versions) for name, versions in sorted(installed.twice.items())]
    unmet = {need.name: need for need in needs(installed) if not need.met}
    missing = [need for need in unmet.values() if need.installed is None]
    if missing:
        found.append(_missing(missing, installed))
    found += [_other(need) for need in unmet.values() if need.installed is not None]
    return found + flashinfer_parts(installed)


def _doubled(name: str, versions: tuple[str, ...]) -> Fault:
    return Fault(
        kind=Kind.DUPLICATE,
        what=f"{name} is installed twice in one place, as {' and '.join(versions)}",
        means="one was put over the other, and files of both are mixed",
        next=f"python -m pip uninstall --yes {name}   # twice; then install the wheel again",
        stops=name == "vllm",
    )


def _missing(missing: list[Need], installed: Installed) -> Fault:
    names = [need.name for need in missing]
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" * (len(names) > NAMED))
    few = len(missing) <= NAMED
    one = len(missing) == 1
    return Fault(
        kind=Kind.MISSING,
        what=f"{shown} {'is' if one else 'are'} not installed",
        means=f"{_askers(missing)} can't work without {'it' if one else 'them'}, as after "
        "`pip install --no-deps` into an environment that had no vLLM",
        next=install(need.words for need in missing) if few
        else f"python -m pip install {wheel_of(installed)}   # without --no-deps",
        stops=True,
    )  # fmt: skip


def _askers(missing: list[Need]) -> str:
    return " and ".join(dict.fromkeys(need.by for need in missing))


def _other(need: Need) -> Fault:
    exact = need.name in EXACT
    means = f"{need.by} was made for {need.specifier}"
    if need.by == "vllm" and need.name == "torch":
        means += ", and its compiled extensions are linked to that one"
    return Fault(
        kind=Kind.VERSION,
        what=f"{need.name} {need.installed} is installed",
        means=means,
        next=install([need.words]),
        stops=exact,
    )


def flashinfer_parts(installed: Installed) -> list[Fault]:
    """Hold FlashInfer's packages of compiled kernels to its own version, as it does itself."""
    own = installed.version(FLASHINFER)
    found = []
    for part in FLASHINFER_PARTS:
        version = installed.version(part)
        if own is None or version is None or version.partition("+")[0] == own.partition("+")[0]:
            continue
        off = bool(os.environ.get(UNCHECKED))
        found.append(
            Fault(
                kind=Kind.FLASHINFER,
                what=f"{part} {version} is installed beside {FLASHINFER} {own}",
                means=f"{UNCHECKED} is set, so kernels of one version are called by another"
                if off else "importing FlashInfer ends with an error, and vLLM takes it for usable",
                next=install([f"{part}=={own}"]) + f"   # or: python -m pip uninstall {part}",
                stops=not off,
            )
        )  # fmt: skip
    return found
