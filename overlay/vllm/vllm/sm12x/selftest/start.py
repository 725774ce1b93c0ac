# SPDX-License-Identifier: Apache-2.0
"""Looks whether operators can be made here at all, before anything imports torch for good."""

import importlib.util
import sys

from . import options

LACKS = 8
NEEDED = ("torch", "triton")
DOCTOR = "python -m vllm.sm12x.doctor"


def lacking() -> str:
    """Say what operators are made of and can't be imported, or nothing."""
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            return f"{name} isn't installed"
        try:
            __import__(name)
        except Exception as problem:  # a library that isn't there is an OSError; there are others
            said = " ".join(str(problem).split())
            return f"importing {name} ends with {type(problem).__name__}: {said}"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options.read(arguments)
    lack = lacking()
    if lack:
        print(
            f"selftest: {lack}, so no operator can run. Type: {DOCTOR}   # it says what to install",
            file=sys.stderr,
        )
        return LACKS
    # vLLM leaves this to us where -m named a tool of the overlay; the overlay alone has none.
    if importlib.util.find_spec("vllm.env_override") is not None:
        import vllm.env_override  # noqa: F401
    from .run import main as run

    return run(arguments)
