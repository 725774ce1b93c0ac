# SPDX-License-Identifier: Apache-2.0
"""The package index in use, and who asks it: credentials go to its host and to nobody else."""

from __future__ import annotations

import os
import re
import sys
import urllib.request
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from recipe.ground import run
from recipe.ground.secret import address, authorization, same_place


def index_urls() -> list[str]:
    """The indexes pip is set to use here; empty means unearth's default, the public one."""
    chosen = os.environ.get("PIP_INDEX_URL") or configured_index()
    if not chosen:
        return []  # not set: extra indexes alone must not replace the default
    return [chosen, *os.environ.get("PIP_EXTRA_INDEX_URL", "").split()]


@cache
def configured_index() -> str:
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    try:
        return run.output(command, cwd=Path(sys.prefix)).decode().strip()
    except run.CommandFailed:
        return ""


def opened(url: str, *, headers: Mapping[str, str], timeout: float, method: str = "GET") -> Any:
    """The answer of a server, asked with the credentials that the index's address has for it."""
    if not re.match(r"https?://", url, re.IGNORECASE):
        raise OSError(f"{url[:200]!r} is neither an http nor an https address")
    asked = urllib.request.Request(address(url), headers=dict(headers), method=method)
    prove(asked, [url, *index_urls()])
    opener = urllib.request.build_opener(Redirects([url, *index_urls()]))
    return opener.open(asked, timeout=timeout)


def prove(request: urllib.request.Request, known: list[str]) -> None:
    for url in known:
        proof = authorization(url)
        if proof is not None and same_place(url, request.full_url):
            # Not one that urllib would hand on to wherever the server sends us.
            request.add_unredirected_header("Authorization", proof)
            return


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to another place; who asks is told there only if it is the index's."""

    def __init__(self, known: list[str]) -> None:
        self.known = known

    def redirect_request(self, *args: Any, **named: Any) -> urllib.request.Request | None:
        again = super().redirect_request(*args, **named)
        if again is not None:
            prove(again, self.known)
        return again
