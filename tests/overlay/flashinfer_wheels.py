# SPDX-License-Identifier: Apache-2.0
"""FlashInfer as its published wheels have it, to be found and never to compute anything.

Files and tables are those of flashinfer_wheels.json, which benchmarks/flashinfer_wheels.py reads
from the wheels themselves; tests/integration holds the two against each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FACTS: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
PINS: dict[str, str] = FACTS["pins"]
WHEELS: dict[str, Any] = FACTS["wheels"]
NOT_IMPORTED = "raise SystemExit('FlashInfer was imported')\n"
# How 0.7 and newer answer: tests/integration holds it against the wheels' own code.
PREDICATE = """\
class {name}:
    def __init__(self, family):
        pass

    def __contains__(self, shape):
        heads, topk = shape
        return 1 <= heads <= 128 and topk >= 1


"""


def install(
    root: Path, version: str, *, metadata: bool = True, says: bool = True, imports: bool = False
) -> Path:
    """Lay the layout of a published wheel into `root` and return its package.

    `metadata`, `says`: its version stands in its dist-info, in the package itself. Without
    `imports`, importing it ends the process.
    """
    wheel = WHEELS[version]
    for name in wheel["files"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for folder in {(root / name).parent for name in wheel["files"] if name.endswith(".py")}:
        (folder / "__init__.py").touch()
    package = root / "flashinfer"
    for path, source in sources(wheel, imports=imports).items():
        (root / path).write_text(source, encoding="utf-8")
    build = package / "_build_meta.py"
    if says:
        build.write_text(f'"""Build."""\n__version__ = "{wheel["says"]}"\n', encoding="utf-8")
    else:
        build.unlink()
    if metadata:
        folder = root / f"flashinfer_python-{version}.dist-info"
        folder.mkdir()
        text = f"Metadata-Version: 2.1\nName: flashinfer-python\nVersion: {version}\n"
        (folder / "METADATA").write_text(text, encoding="utf-8")
    return package


def sources(wheel: dict[str, Any], *, imports: bool) -> dict[str, str]:
    """What stands in the files that somebody reads or imports, by path."""
    written: dict[str, str] = {"flashinfer/__init__.py": "" if imports else NOT_IMPORTED}
    for module, names in wheel["has"].items():
        path = module.replace(".", "/")
        path = f"{path}.py" if f"{path}.py" in wheel["files"] else f"{path}/__init__.py"
        written[path] = "".join(f"def {name}(): ...\n" for name in names)
    for family, table in wheel["shapes"].items():
        name, path = f"_DECODE_{family}_DISPATCH", table["in"]
        made_by = table.get("made_by")
        value = f"{made_by}({family!r})" if made_by else f"frozenset({pairs(table)})"
        head = PREDICATE.format(name=made_by) if made_by and path not in written else ""
        written[path] = f"{written.get(path, '')}{head}{name} = {value}\n"
        for door in doors(path, wheel):
            line = f"from .{path.rsplit('/', 1)[1][:-3]} import {name}\n"
            written[door] = written.get(door, "") + line
    return written


def doors(path: str, wheel: dict[str, Any]) -> list[str]:
    """The module that vLLM imports a table from, where the table stands in another."""
    both = ("flashinfer/mla/_sparse_mla_sm120.py", "flashinfer/mla/_sparse_mla_sm120/__init__.py")
    return [door for door in both if door in wheel["files"] and door != path]


def pairs(table: dict[str, Any]) -> set[tuple[int, ...]]:
    return {tuple(map(int, pair.split("x"))) for pair in table["pairs"].split()}
