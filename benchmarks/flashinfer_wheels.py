# SPDX-License-Identifier: Apache-2.0
"""Write down what FlashInfer's published wheels have for sparse MLA on SM12x.

With a Python that has the recipe's packages (.venv/recipe-*/bin/python or the tests'):
PYTHON -m benchmarks.flashinfer_wheels, or --check to compare and write nothing. Of each wheel its
list of files and a few small ones are read by ranges; nothing of upstream's text is kept, only
names, sizes, hashes and the table of shapes. tests/overlay/flashinfer_wheels.json is the result.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.bases.download import Link, list_files
from recipe.bases.flashinfer import MATTERS, remote
from recipe.bases.releases import Base, load_bases

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "tests" / "overlay" / "flashinfer_wheels.json"
# Beside those that bases pin: both sides of where it stops to hang, and of where files moved.
OTHERS = ("0.6.17", "0.7.1", "0.7.2")
DISPATCH = re.compile(r"_DECODE_(\w+)_DISPATCH")
READ = re.compile(
    r"flashinfer/(_build_meta|decode|autotuner|autotuner/__init__|mla/_core|mla/_sparse_mla_sm120.*)"
    r"\.py"
)
# What vLLM imports to learn whether FlashInfer can serve.
ASKED = {
    "flashinfer.decode": (
        "trtllm_batch_decode_sparse_mla_dsv4",
        "trtllm_batch_decode_with_kv_cache_mla",
    ),
    "flashinfer.autotuner": ("autotune",),
}
# What the overlay calls itself, and what answers there on SM12x.
CALLED = ("trtllm_batch_decode_with_kv_cache_mla", "_trtllm_batch_decode_sparse_mla_v32_sm120")


def flashinfer_pin(base: Base, wheels: dict[str, Link]) -> str:
    """The version of FlashInfer that a base's published wheel requires."""
    with remote(wheels[base.wheels["x86_64"].name]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        found = re.search(
            r"^Requires-Dist: flashinfer-python==([\w.]+)", wheel.read(name).decode(), re.MULTILINE
        )
    if found is None:
        sys.exit(f"the wheel of {base.tag} requires no fixed flashinfer-python")
    return found[1]


def facts_of(link: Link) -> dict[str, Any]:
    """What one wheel has: its hash, the files that matter, and the shapes it decodes by family."""
    with remote(link) as wheel:
        listed = {info.filename: info.file_size for info in wheel.infolist()}
        read = {name: wheel.read(name) for name in listed if READ.fullmatch(name)}
    version = re.search(rb'__version__ = "([^"]+)"', read["flashinfer/_build_meta.py"])
    assert version is not None, link.name
    return {
        "wheel": link.name,
        "sha256": link.sha256,
        "says": version[1].decode(),
        "files": {name: listed[name] for name in sorted(listed) if MATTERS.fullmatch(name)},
        "read": {name: hashlib.sha256(read[name]).hexdigest() for name in sorted(read)},
        "has": {module: defined(module, names, read) for module, names in ASKED.items()},
        "shapes": dict(sorted(found for name in sorted(read) for found in shapes_in(name, read))),
        "takes": dict(called(read["flashinfer/mla/_core.py"].decode())),
    }


def called(source: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Of each function of CALLED its parameters, those with a default marked, and its hash."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name in CALLED:
            given = node.args
            assert not (given.posonlyargs or given.vararg or given.kwarg), node.name
            needed = len(given.args) - len(given.defaults)
            names = [f"{arg.arg}{'=' * (at >= needed)}" for at, arg in enumerate(given.args)]
            pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
            names += [f"{arg.arg}{'=' * (default is not None)}" for arg, default in pairs]
            text = ast.get_source_segment(source, node) or ""
            digest = hashlib.sha256(text.encode()).hexdigest()
            yield node.name, {"parameters": " ".join(names), "sha256": digest}


def defined(module: str, names: tuple[str, ...], read: dict[str, bytes]) -> list[str]:
    """Those of `names` that a module defines or imports."""
    path = module.replace(".", "/")
    source = read.get(f"{path}.py") or read[f"{path}/__init__.py"]
    found = {
        getattr(node, "asname", None) or node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.alias))
    }
    return [name for name in names if name in found]


def shapes_in(name: str, read: dict[str, bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(family, where its table stands and what is assigned: pairs, or the call that makes it)."""
    for node in ast.parse(read[name]).body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if found := DISPATCH.fullmatch(ast.unparse(target)):
                yield found[1], {"in": name, **assigned(node.value)}


def assigned(value: ast.expr) -> dict[str, Any]:
    if ast.unparse(value).startswith("frozenset("):
        assert isinstance(value, ast.Call)
        pairs = sorted(ast.literal_eval(value.args[0]))
        return {"pairs": " ".join(f"{heads}x{topk}" for heads, topk in pairs)}
    assert isinstance(value, ast.Call), ast.unparse(value)
    return {"made_by": ast.unparse(value.func)}


def gather() -> dict[str, Any]:
    """Pins of all bases, and the facts of each wheel that they name and of some others."""
    vllm = {link.name: link for _, link in list_files("vllm")}
    published = {
        version: link
        for version, link in list_files("flashinfer-python")
        if link.name.endswith(".whl")
    }
    bases = load_bases(ROOT / "bases.toml").releases
    pins = {base.tag: flashinfer_pin(base, vllm) for base in bases}
    wanted = sorted({*pins.values(), *OTHERS}, key=lambda v: list(published)[::-1].index(v))
    return {"pins": pins, "wheels": {version: facts_of(published[version]) for version in wanted}}


def render(found: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(found, indent=1) + "\n"


def main() -> int:
    """Write the file, or compare it: 0 where it holds, 1 where it doesn't."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args()
    found = render(gather())
    if options.check:
        same = KEPT.read_text(encoding="utf-8") == found
        print("as kept" if same else f"{KEPT.name} isn't what the wheels have")
        return 0 if same else 1
    KEPT.write_text(found, encoding="utf-8", newline="\n")
    print(f"wrote {KEPT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
