# SPDX-License-Identifier: Apache-2.0
"""The verb index: wheels as a package index that any web server can hand out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.cli.answers import show
from recipe.cli.options import verb
from recipe.ground.errors import MachineError
from recipe.ground.log import say
from recipe.ground.project import Project

if TYPE_CHECKING:
    from recipe.wheel.index.folder import Published


def add_index(verbs: Any, name: str) -> None:
    parser = verb(verbs, name, "put wheels into a package index, a folder of pages", run_index)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the index, new or made before")
    parser.add_argument("wheels", type=Path, nargs="*", metavar="WHEEL", help="what to add to it")
    parser.add_argument(
        "--serve", action="store_true", help="then hand it out on this machine, until Ctrl-C"
    )
    parser.add_argument("--port", type=port, default=8080, help="of --serve; 0: any that is free")


def port(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 16:
        raise argparse.ArgumentTypeError("0 to 65535")
    return number


def run_index(options: argparse.Namespace, project: Project) -> dict[str, Any]:
    from recipe.wheel.index.folder import publish

    folder = options.folder.absolute()
    published = publish(folder, options.wheels, project.cache)
    show(options, summary(folder, published))
    if options.serve:
        serve(folder, options.port)
    return {
        "folder": str(folder),
        "added": list(published.added),
        "projects": {
            name: [{"name": e.name, "sha256": e.sha256, "size": e.size} for e in entries]
            for name, entries in published.projects.items()
        },
    }


def summary(folder: Path, published: Published) -> str:
    lines = [f"{folder}: {len(published.entries)} wheels, {len(published.added)} of them new"]
    for entry in published.entries:
        mark = "+" if entry.name in published.added else " "
        lines.append(f"{mark} {entry.name}  sha256 {entry.sha256}")
    return "\n".join(lines)


def serve(folder: Path, number: int) -> None:
    """Hand the index out until Ctrl-C, which is how that ends well."""
    from recipe.wheel.index.serve import Server

    try:
        server = Server(folder, number)
    except OSError as error:
        raise MachineError(
            f"port {number} of this machine can't be had: {error.strerror}",
            means="The index itself is written.",
            next="let the system choose one: --port 0",
        ) from None
    with server:
        say(f"serving {server.url} to this machine, until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
