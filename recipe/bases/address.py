# SPDX-License-Identifier: Apache-2.0
"""What git is asked for upstream's sources: an address, or a repository on this disk."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

VLLM_REPOSITORY = "https://github.com/vllm-project/vllm.git"


def git_address(source: str) -> str | None:
    """What git is asked for a --source; None for an archive and for a folder of files.

    A repository without a work tree is one, by its path: its own files are no source.
    """
    if source == "git":
        return VLLM_REPOSITORY
    if re.match(r"[a-z+]+://|[\w.-]+@[\w.-]+:", source):
        return source
    path = Path(source).expanduser()
    bare = (path / "HEAD").is_file() and (path / "objects").is_dir() and (path / "refs").is_dir()
    return path.resolve().as_uri() if bare else None


def local_mirror(address: str) -> Path | None:
    """The git folder of a repository on this disk."""
    if not address.startswith("file://"):
        return None
    path = Path(url2pathname(urlsplit(address).path))
    return path / ".git" if (path / ".git").is_dir() else path
