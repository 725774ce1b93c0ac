# SPDX-License-Identifier: Apache-2.0
"""A look at an index over HTTP, for this machine alone: what a web server would hand out, and each
page in the form that the reader asks for (PEP 691)."""

from __future__ import annotations

import re
import shutil
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from recipe.objects.gate.names import wrong_file_name
from recipe.wheel.index import pages

HERE = "127.0.0.1"
JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
TEXT = "text/html"
# What a reader may name, and what it is answered with; where it likes several as much, the first.
FORMS = {
    TEXT: TEXT,
    HTML: HTML,
    JSON: JSON,
    "application/vnd.pypi.simple.latest+html": HTML,
    "application/vnd.pypi.simple.latest+json": JSON,
}
PAGES = {TEXT: pages.HTML, HTML: pages.HTML, JSON: pages.JSON}
LONGEST_ACCEPT = 4096
QUALITY = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


def chosen_form(accept: str | None) -> str | None:
    """The content type of the answer to an Accept header; None where nothing it names can be had.

    A name counts more than a pattern (RFC 9110, 12.5.1); without a header it is HTML, as for those
    who knew PEP 503 alone.
    """
    if not accept or len(accept) > LONGEST_ACCEPT:
        return TEXT
    asked = qualities(accept)
    liked = {
        name: next((asked[one] for one in (name, f"{kind(name)}/*", "*/*") if one in asked), 0.0)
        for name in FORMS
    }
    best = max(liked, key=lambda name: liked[name])
    return FORMS[best] if liked[best] > 0 else None


def kind(name: str) -> str:
    return name.partition("/")[0]


def qualities(accept: str) -> dict[str, float]:
    """How much each type of an Accept header is liked, 0 to 1; what can't be read isn't counted."""
    found: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (one.strip().lower() for one in part.split(";"))
        told = [QUALITY.fullmatch(one) for one in parameters if one.startswith("q=")]
        if all(told):
            found[name] = float(told[0][1]) if told and told[0] else 1.0
    return found


def place_of(folder: Path, path: str) -> Path | None:
    """The file or the folder of pages that a path of the address names; None for any other."""
    parts = [part for part in unquote(path).split("/") if part]
    match parts:
        case ["simple"]:
            place = folder / "simple"
        case ["simple", project] if re.fullmatch(r"[a-z0-9-]+", canonicalize_name(project)):
            place = folder / "simple" / canonicalize_name(project)
        case ["files", name] if wrong_file_name(name) is None:
            place = folder / "files" / name
        case _:
            return None
    return place if place.exists() and not place.is_symlink() else None


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD. folder: the index."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        try:
            path = urlsplit(self.path).path
            place = place_of(self.folder, path)
        except ValueError:
            place = None
        if self.path == "/":
            self.moved("/simple/")
        elif place is None:
            self.say(HTTPStatus.NOT_FOUND, "nothing of that name is in this index")
        elif place.is_file():
            whole = path.endswith((".whl", pages.METADATA))
            self.file(place, "application/octet-stream" if whole else "text/plain")
        elif place.parent.name == "simple" and path != f"/simple/{place.name}/":
            self.moved(f"/simple/{place.name}/")
        elif place.name == "simple" and path != "/simple/":
            self.moved("/simple/")
        else:
            self.page(place)

    def page(self, place: Path) -> None:
        form = chosen_form(self.headers.get("Accept"))
        if form is None:
            self.say(HTTPStatus.NOT_ACCEPTABLE, f"pages are {', '.join(PAGES)}")
        elif not (place / PAGES[form]).is_file():
            self.say(HTTPStatus.NOT_FOUND, "nothing of that name is in this index")
        else:
            self.file(place / PAGES[form], f"{form}; charset=utf-8" if form == TEXT else form)

    def file(self, path: Path, content_type: str) -> None:
        with path.open("rb") as stream:
            # Of the open file: another run may put a new page in the place of this one.
            size = stream.seek(0, 2)
            stream.seek(0)
            self.head(HTTPStatus.OK, content_type, size)
            if self.command == "GET":
                shutil.copyfileobj(stream, self.wfile)

    def say(self, status: HTTPStatus, text: str) -> None:
        content = f"{text}\n".encode()
        self.head(status, "text/plain; charset=utf-8", len(content))
        if self.command == "GET":
            self.wfile.write(content)

    def moved(self, where: str) -> None:
        self.head(HTTPStatus.MOVED_PERMANENTLY, TEXT, 0, Location=where)

    def head(self, status: HTTPStatus, content_type: str, size: int, **more: str) -> None:
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(size))
        self.send_header("Vary", "Accept")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the address was said, and pip says what it fetches."""


class Server(ThreadingHTTPServer):
    """The index of a folder on a port of this machine; port 0 takes a free one."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__((HERE, port), type("Here", (Handler,), {"folder": folder}))

    @property
    def url(self) -> str:
        return f"http://{HERE}:{self.server_address[1]}/simple/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that went away in the middle is no error of ours."""
