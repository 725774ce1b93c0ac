# SPDX-License-Identifier: Apache-2.0
"""Which Python compiles and tests a base: this one, or the one that --python names."""

from __future__ import annotations

import re
import shutil
import sys

from recipe.bases.releases import Base
from recipe.ground import run
from recipe.ground.errors import MachineError, UsageError


def this_python() -> str:
    """The version of the Python that runs this, major.minor."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def find_python(base: Base, asked: str | None) -> tuple[str, str]:
    """An interpreter the base allows and its version, major.minor."""
    here = this_python()
    wanted = asked or here
    if not re.fullmatch(r"3\.\d+", wanted):
        raise UsageError(f"--python {wanted!r}: write it as 3.12", next="python build.py --help")
    if f"{wanted}.0" not in base.python:
        raise UsageError(
            f"{base.tag} needs Python {base.python}; this would test it with {wanted}",
            next=f"python build.py --base {base.tag} --python 3.12 ...",
        )
    if wanted == here:
        return getattr(sys, "_base_executable", sys.executable), here
    found = shutil.which(f"python{wanted}")
    if found is None:
        raise MachineError(
            f"python{wanted} is not on this machine's PATH",
            next=f"install Python {wanted}, or test with another: --python {here}",
        )
    try:
        said = run.output([found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    except run.CommandFailed as error:
        raise MachineError(
            f"{found} doesn't start: {error.stderr.strip()}", next="mend it"
        ) from None
    if said.decode().strip() != wanted:
        raise MachineError(f"{found} is Python {said.decode().strip()}", next="mend the PATH")
    return found, wanted
