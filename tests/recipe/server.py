# SPDX-License-Identifier: Apache-2.0
"""A package index on this machine: simple pages (PEP 503) and files, over real HTTP.

It can be told to cut a connection, to refuse ranges or to send other bytes than it lists.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(kw_only=True)
class Index:
    """What the server has and how it behaves.

    files: content by project and name. sends: bytes sent instead of the listed ones. cuts: for a
    file name, after how many bytes the next answers end early. length: what an answer to HEAD says
    instead of the size. asked: (path, Range) of each GET.
    login: ``user:password`` that every request must prove. proofs: (path, Authorization) of each
    request. elsewhere: another index's address, to which files are redirected.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    sends: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    length: str | None = None
    login: str = ""
    elsewhere: str = ""
    proofs: list[tuple[str, str | None]] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def add(self, project: str, name: str, content: bytes) -> None:
        self.files.setdefault(project, {})[name] = content

    def fetched(self, name: str) -> list[str | None]:
        """The Range header of each request for a file, in order."""
        return [asked for path, asked in self.asked if path.endswith("/" + name)]


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def page(files: dict[str, bytes]) -> bytes:
    rows = [
        f'<a href="/files/{name}#sha256={hashlib.sha256(content).hexdigest()}">{name}</a><br>'
        for name, content in files.items()
    ]
    return ("<!DOCTYPE html><html><body>" + "\n".join(rows) + "</body></html>").encode()


def handler_for(index: Index) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            if body:
                index.asked.append((self.path, self.headers.get("Range")))
            proof = self.headers.get("Authorization")
            index.proofs.append((self.path, proof))
            if index.login and proof != basic(index.login):
                self.send(401, b"who asks?", body=body, kind="text/plain")
                return
            if index.elsewhere and self.path.startswith("/files/"):
                self.send_response(302)
                self.send_header("Location", index.elsewhere.removesuffix("/simple") + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            simple = re.fullmatch(r"/simple/([^/]+)/?", self.path)
            if simple and simple[1] in index.files:
                self.send(200, page(index.files[simple[1]]), body=body, kind="text/html")
                return
            name = self.path.removeprefix("/files/")
            for files in index.files.values():
                if self.path.startswith("/files/") and name in files:
                    self.send_file(name, index.sends.get(name, files[name]), body=body)
                    return
            self.send(404, b"nothing here", body=body, kind="text/plain")

        def send_file(self, name: str, content: bytes, *, body: bool) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted is None or not index.ranges:
                self.send(200, content, body=body, cut=self.next_cut(name) if body else None)
                return
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            if first >= len(content):
                self.send(416, b"", body=body)
                return
            self.send(206, content[first : last + 1], body=body, cut=self.next_cut(name))

        def next_cut(self, name: str) -> int | None:
            cuts = index.cuts.get(name, [])
            return cuts.pop(0) if cuts else None

        def send(
            self,
            status: int,
            content: bytes,
            *,
            body: bool,
            kind: str = "application/octet-stream",
            cut: int | None = None,
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            length = str(len(content))
            if not body and index.length is not None:
                length = index.length
            self.send_header("Content-Length", length)
            self.end_headers()
            if body:
                self.wfile.write(content if cut is None else content[:cut])
            if cut is not None:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet: a test that fails shows `asked`."""

    return Handler


@contextmanager
def serve() -> Iterator[Index]:
    """An index on a free port of this machine, stopped at the end of the block."""
    index = Index()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_for(index)) as server:
        server.daemon_threads = True
        index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()
