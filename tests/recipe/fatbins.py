# SPDX-License-Identifier: Apache-2.0
"""Small real fat binaries, assembled here by NVIDIA's own tools, in shared objects and wheels."""

from __future__ import annotations

import struct
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

PTX = """\
.version 9.0
.target sm_{target}
.address_size 64
.func helper(.param .b64 place) {{ ret; }}
"""
ENTRY = """\
.visible .entry {name}(.param .u64 place) {{
  .reg .b64 %to;
  .reg .f32 %value;
  ld.param.u64 %to, [place];
  ld.global.f32 %value, [%to];
  add.f32 %value, %value, %value;
  st.global.f32 [%to], %value;
  ret;
}}
"""
SECTION = struct.Struct("<IIQQQQIIQQ")
# (compress mode, what its flag in an entry is): see recipe/gpu/fatbin.py.
MODES = {"none": 0, "speed": 0x2000, "size": 0x8000}
AXPY = "_ZN4vllm4axpyIfEEvPT_"
MARLIN_BF16 = (
    "_ZN6marlin6MarlinILl1125899906909960ELl1125899906843648EEEvPK4int4"  # a source's own name, cut
)


def tool(name: str) -> Path:
    """One of the tools that requirements/test.lock brings."""
    found = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin" / name
    assert found.exists(), f"{name} is not in this environment: python build.py test"
    return found


def run(name: str, *args: str | Path) -> str:
    done = subprocess.run([tool(name), *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def unit(
    folder: Path,
    sass: Sequence[str] = (),
    ptx: Sequence[str] = (),
    *,
    kernels: Iterable[str] = (AXPY,),
    mode: str = "none",
) -> bytes:
    """The fat binary of one translation unit: machine code and PTX for targets such as 120f."""
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(kernels)
    images = []
    for target in dict.fromkeys([*sass, *ptx]):
        for kind, asked, content in (("elf", sass, assembled), ("ptx", ptx, source)):
            if target in asked:
                file = folder / f"{target}.{kind}"
                file.write_bytes(content(target, names))
                images.append(f"--image3=kind={kind},sm={target},file={file}")
    out = folder / "code.fatbin"
    compress = ["--compress-all", f"--compress-mode={mode}"] if mode != "none" else []
    plain = ["--compress=false"] if mode == "none" else []
    run("fatbinary", "-64", *compress, *plain, f"--create={out}", *images)
    return out.read_bytes()


def source(target: str, kernels: tuple[str, ...]) -> bytes:
    entries = "".join(ENTRY.format(name=name) for name in kernels)
    return (PTX.format(target=target) + entries).encode()


@cache
def assembled(target: str, kernels: tuple[str, ...]) -> bytes:
    """The cubin of a target; the tool takes most of a second to start."""
    with tempfile.TemporaryDirectory() as name:
        text, cubin = Path(name) / "code.ptx", Path(name) / "code.cubin"
        text.write_bytes(source(target, kernels))
        run("ptxas", f"-arch=sm_{target}", text, "-o", cubin)
        return cubin.read_bytes()


def shared_object(*units: bytes, section: str = ".nv_fatbin") -> bytes:
    """An ELF file whose one section of content has the units one after another, as ld puts them."""
    content = b"".join(one + bytes(-len(one) % 16) for one in units)
    names = b"\0" + section.encode() + b"\0.shstrtab\0"
    data_at, names_at = 64, 64 + len(content)
    table_at = names_at + len(names) + -(names_at + len(names)) % 8
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(3, 62, 1, 0, 0, table_at, 0, 64, 56, 0, 64, 3, 2),
    )
    table = bytes(64)
    table += SECTION.pack(1, 1, 2, 0, data_at, len(content), 0, 0, 16, 0)
    table += SECTION.pack(len(section) + 2, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    return (header + content + names).ljust(table_at, b"\0") + table
