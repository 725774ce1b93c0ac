# SPDX-License-Identifier: Apache-2.0
"""A small upstream release: its sdist, its published wheel and the pins of both."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.recipe.repo import numbered

VERSION = "9.1.0"
TAG = f"v{VERSION}"
COMMIT = "0123abcde"
SDIST = f"vllm-{VERSION}.tar.gz"
WHEELS = {m: f"vllm-{VERSION}-1-cp38-abi3-linux_{m}.whl" for m in ("x86_64", "aarch64")}
INFO = f"vllm-{VERSION}.dist-info"

CMAKE = b"""\
if(DEFINED CMAKE_CUDA_COMPILER_VERSION AND
   CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)
  set(CUDA_SUPPORTED_ARCHS "7.5;8.0;9.0;10.0;12.0")
elseif(DEFINED CMAKE_CUDA_COMPILER_VERSION AND
   CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
  set(CUDA_SUPPORTED_ARCHS "7.5;8.0;9.0;10.0;12.0;12.1")
else()
  set(CUDA_SUPPORTED_ARCHS "7.5;8.0;9.0")
endif()
"""
VERSION_FILE = f"""\
__version__ = version = '{VERSION}'
__version_tuple__ = version_tuple = (9, 1, 0)

__commit_id__ = commit_id = 'g{COMMIT}'
""".encode()
METADATA = f"""\
Metadata-Version: 2.4
Name: vllm
Version: {VERSION}
Requires-Python: >=3.10
Requires-Dist: torch==2.11.0
Requires-Dist: smalldep>=1; python_version >= "3"

A small vLLM. Version: of the body stays.
""".encode()
WHEEL = b"""\
Wheel-Version: 1.0
Generator: setuptools (80.0.0)
Root-Is-Purelib: false
Build: 1
Tag: cp38-abi3-linux_x86_64
"""
PACKAGE: dict[str, bytes] = {
    "vllm/__init__.py": b"from vllm._version import version as __version__\n",
    "vllm/_version.py": VERSION_FILE,
    "vllm/model.py": numbered(40),
    "vllm/envs.py": numbered(12, "knob"),
    "vllm/data/table, with comma.json": b'{"a": 1}\n',
}
TREE: dict[str, bytes] = {
    **PACKAGE,
    "CMakeLists.txt": CMAKE,
    "csrc/kernel.cu": numbered(20, "kernel"),
    "tools/build.sh": b"#!/bin/sh\necho built\n",
    "PKG-INFO": METADATA,
}


def make_sdist(files: Mapping[str, bytes] = TREE, version: str = VERSION) -> bytes:
    """A source archive with one top folder, the same bytes each time."""
    out = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, content in files.items():
            member = tarfile.TarInfo(f"vllm-{version}/{name}")
            member.size = len(content)
            member.mode = 0o755 if content.startswith(b"#!") else 0o644
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def shared_object() -> bytes:
    """A real shared object of this machine: one of Python's own extensions."""
    folder = Path(sysconfig.get_config_var("DESTSHARED"))
    return min(folder.glob("*.so"), key=lambda path: path.stat().st_size).read_bytes()


def record_row(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    quoted = f'"{name}"' if "," in name else name
    return f"{quoted},sha256={digest},{len(content)}\n"


def make_wheel(
    changed: Mapping[str, bytes] | None = None,
    *,
    metadata: bytes = METADATA,
    binary: bytes | None = None,
) -> bytes:
    """A published wheel, deflated, with RECORD; `changed` replaces or adds members."""
    members = {
        **PACKAGE,
        "vllm/_C.abi3.so": shared_object() if binary is None else binary,
        f"{INFO}/METADATA": metadata,
        f"{INFO}/WHEEL": WHEEL,
        **(changed or {}),
    }
    record = "".join(record_row(name, content) for name, content in members.items())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in [*members.items(), (f"{INFO}/RECORD", record.encode())]:
            info = zipfile.ZipInfo(name, date_time=(2026, 1, 2, 3, 4, 6))
            info.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(info, content + (b"" if name != f"{INFO}/RECORD" else RECORD_TAIL))
    return out.getvalue()


RECORD_TAIL = f"{INFO}/RECORD,,\n".encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def bases_toml(
    sdist: bytes,
    wheels: Mapping[str, bytes],
    *,
    tag: str = TAG,
    commit: str = COMMIT,
    proof: str = "",
) -> str:
    """proof: what else is pinned of the source archive, as `, size = 1`."""
    rows = "\n".join(
        f'wheels.{machine} = {{ name = "{WHEELS[machine]}", sha256 = "{sha256(content)}" }}'
        for machine, content in wheels.items()
    )
    return f"""\
schema = 1
revision = 4

[[base]]
tag = "{tag}"
commit = "{commit}"
torch = "2.11.0"
cuda = "13.0"
python = ">=3.10"
components = ["_C"]
sdist = {{ name = "{SDIST}", sha256 = "{sha256(sdist)}"{proof} }}
{rows}
inner.deepgemm = {{ repository = "https://deepgemm.example/x.git", pin = "{"ab" * 20}" }}
"""
