# SPDX-License-Identifier: Apache-2.0
"""The functions of each DeepGEMM that published wheels carry, with their arguments: a TOML table.

    PYTHON benchmarks/deepgemm_functions.py v0.24.0 v0.25.0 ... > recipe/compile/deepgemm.toml

PYTHON has torch (a CPU build will do) and is a CPython that the extensions are for; a C compiler is
there. The wheels are those of bases.toml, from the cache. Each extension is loaded in a process
of its own with empty libraries in CUDA's place, and says itself what it takes: pybind11 writes
signatures into docstrings, operators have schemas. Only what vLLM's code names is kept.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "vllm/third_party/deep_gemm/"
HEADERS = f"{PACKAGE}include/deep_gemm/"
# What the extensions link to and a CPU build of torch hasn't got, with the versions they ask for.
LIBRARIES = {
    "libtorch_cuda.so": "",
    "libc10_cuda.so": "",
    "libcudart.so.13": "libcudart.so.13",
    "libnvrtc.so.13": "libnvrtc.so.13",
}
HEAD = """\
# What each DeepGEMM takes, as the extension in a published wheel says. Written by:
#   PYTHON benchmarks/deepgemm_functions.py {tags}
# sm120: its kernel headers for SM12x. An argument is "name: type", with a = where it has a default.
"""
STARS = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}
# pybind11's words for a type, which differ between its versions.
TYPES = (
    (r"torch\.", ""),
    (r"typing\.SupportsInt( \| typing\.SupportsIndex)?", "int"),
    (r"typing\.SupportsFloat( \| typing\.SupportsIndex)?", "float"),
    (r"collections\.abc\.Sequence", "list"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tags", nargs="+", metavar="TAG")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(examine(Path(options.tags[0]))))
        return
    bases = tomllib.loads((ROOT / "bases.toml").read_text(encoding="utf-8"))["base"]
    found = [look(base) for base in bases if base["tag"] in options.tags]
    named = set().union(*(one["named"] for one in found))
    print(HEAD.format(tags=" ".join(options.tags)), end="")
    for one in found:
        print(render(one, named))


def look(base: dict[str, Any]) -> dict[str, Any]:
    """One release's wheel: what its DeepGEMM exports, and every word of vLLM's code about it."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = Path(os.environ.get("SM12X_CACHE") or Path(home) / "vllm-sm12x")
    archive = base["wheels"]["x86_64"]
    path = cache / "downloads" / archive["sha256"] / archive["name"]
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != archive["sha256"]:
            sys.exit(f"{path} is not the pinned wheel")
    with zipfile.ZipFile(path) as wheel, tempfile.TemporaryDirectory() as folder:
        members = wheel.namelist()
        ours = [n for n in members if n.startswith(PACKAGE) and "/include/" not in n]
        wheel.extractall(folder, ours)
        place = Path(folder) / PACKAGE
        make_libraries(place.parent)
        env = {**os.environ, "LD_LIBRARY_PATH": str(place.parent), "CUDA_HOME": str(place.parent)}
        command = [sys.executable, __file__, "--one", str(place.parent)]
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
        code = [n for n in members if re.fullmatch(r"vllm/(?!third_party/).*\.py", n)]
        texts = (wheel.read(name).decode() for name in code)
        words = {w for text in texts if "deep_gemm" in text for w in re.findall(r"\w+", text)}
    functions = json.loads(done.stdout.splitlines()[-1])
    return {
        "pin": base["inner"]["deepgemm"]["pin"],
        "wheel": archive["name"],
        "sm120": sorted(n.removeprefix(HEADERS) for n in members if is_sm120(n)),
        "functions": functions,
        "named": words & set(functions),
    }


def is_sm120(member: str) -> bool:
    return member.startswith(HEADERS) and "sm120" in member


def make_libraries(folder: Path) -> None:
    """Empty shared objects by the names that the extensions look for."""
    source = folder / "empty.c"
    source.touch()
    for name, version in LIBRARIES.items():
        command = ["cc", "-shared", "-o", str(folder / name), f"-Wl,-soname,{name}", str(source)]
        if version:
            script = folder / f"{name}.map"
            script.write_text(f"{version} {{ }};", encoding="utf-8")
            command.append(f"-Wl,--version-script={script}")
        subprocess.run(command, check=True)


def examine(folder: Path) -> dict[str, list[str]]:
    """In a process of its own: name -> arguments of every function the package exports."""
    # Functions that aren't there are looked for when they are called, and none is.
    sys.setdlopenflags(os.RTLD_LAZY)
    import torch

    class Lazily(ctypes.CDLL):
        def __init__(self, name: str) -> None:
            super().__init__(name, mode=os.RTLD_LAZY)

    setattr(torch.ops, "load_library", Lazily)  # noqa: B010
    sys.path.insert(0, str(folder))
    import deep_gemm  # type: ignore[import-not-found, unused-ignore]

    found = {}
    for name, value in vars(deep_gemm).items():
        where = getattr(value, "__module__", "") or ""
        if name.startswith("_") or not where or "typing" in where or ".testing" in where:
            continue
        if callable(value):
            found[name] = ["*"] if inspect.isclass(value) else arguments_of(value)
    return found


def arguments_of(function: Any) -> list[str]:
    if hasattr(function, "overloads"):
        schema = function.default._schema
        return [f"{a.name}{' =' if a.has_default_value() else ''}" for a in schema.arguments]
    doc = (getattr(function, "__doc__", None) or "").partition("\n")[0]
    if inspect.isbuiltin(function):
        match = re.fullmatch(r"\w+\((.*)\) -> .*", doc)
        return [pybind_argument(one) for one in split(match[1])] if match else ["*"]
    return [
        f"{STARS.get(p.kind.name, '')}{p.name}{'' if p.default is p.empty else ' ='}"
        for p in inspect.signature(function).parameters.values()
    ]


def split(text: str) -> list[str]:
    """At the commas that are in no bracket."""
    parts = [""]
    depth = 0
    for char in text:
        depth += (char in "[(") - (char in "])")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def pybind_argument(text: str) -> str:
    declared, equals, _ = text.partition(" = ")
    for pattern, word in TYPES:
        declared = re.sub(pattern, word, declared)
    return declared + (" =" if equals else "")


def render(one: dict[str, Any], named: set[str]) -> str:
    lines = ["", "[[deepgemm]]"]
    lines += [f"{key} = {json.dumps(one[key])}" for key in ("pin", "wheel", "sm120")]
    lines.append("[deepgemm.functions]")
    for name in sorted(named & set(one["functions"])):
        lines.append(f"{name} = {json.dumps(one['functions'][name])}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
