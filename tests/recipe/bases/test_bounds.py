# SPDX-License-Identifier: Apache-2.0
"""A server that sends too much, too slowly or nonsense: each is left in time, with a reason."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from recipe.bases import download, transfer
from recipe.bases.download import fetch, list_files
from recipe.bases.index import opened
from recipe.bases.releases import Archive
from recipe.bases.transfer import Pace, TooSlow, within
from recipe.ground.errors import SourceError

CONTENT = b"x" * 880
NAME = "vllm-1.0.0.tar.gz"
Send = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(page: Send, file: Send) -> Iterator[tuple[str, list[int]]]:
    """An index whose answers are written by hand; how many bytes of the file it got rid of."""
    sent = [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(
                OSError
            ):  # the other side has hung up, which is what it should
                (page if self.path.startswith("/simple") else file)(self)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    Handler.sent = sent  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{made.server_address[1]}", sent
        finally:
            made.shutdown()


def head(to: BaseHTTPRequestHandler, kind: str = "text/html", length: int | None = None) -> None:
    to.send_response(200)
    to.send_header("Content-Type", kind)
    if length is not None:
        to.send_header("Content-Length", str(length))
    to.end_headers()


def good_page(to: BaseHTTPRequestHandler) -> None:
    text = f'<a href="/files/{NAME}#sha256={hashlib.sha256(CONTENT).hexdigest()}">{NAME}</a>'
    head(to)
    to.wfile.write(text.encode())


def page_of(content: bytes, kind: str = "text/html") -> Send:
    def send(to: BaseHTTPRequestHandler) -> None:
        head(to, kind, len(content))
        to.wfile.write(content)

    return send


def endless(to: BaseHTTPRequestHandler) -> None:
    head(to, "application/octet-stream")
    for _ in range(3000):
        to.wfile.write(b"x" * (1 << 20))
        to.sent[0] += 1 << 20  # type: ignore[attr-defined]


def drip(to: BaseHTTPRequestHandler) -> None:
    head(to, "text/html", len(CONTENT))
    for byte in CONTENT:
        to.wfile.write(bytes([byte]))
        time.sleep(0.05)


def drip_headers(to: BaseHTTPRequestHandler) -> None:
    for byte in b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1000:
        to.wfile.write(bytes([byte]))
        time.sleep(0.05)


def whole(to: BaseHTTPRequestHandler) -> None:
    head(to, "application/octet-stream")
    to.wfile.write(CONTENT)


def get(
    url: str, cache: Path, monkeypatch: pytest.MonkeyPatch, size: int | None = len(CONTENT)
) -> Path:
    monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    archive = Archive(name=NAME, sha256=hashlib.sha256(CONTENT).hexdigest(), size=size)
    return fetch(archive, project="vllm", version="1.0.0", cache=cache, offline=False)


def parts(cache: Path) -> list[str]:
    return [path.name for path in (cache / "downloads").rglob("*") if path.is_file()]


def test_a_file_without_a_length_is_whole_when_its_hash_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(good_page, whole) as (url, _):
        assert get(url, tmp_path, monkeypatch).read_bytes() == CONTENT


def test_a_file_without_an_end_is_left_at_its_pinned_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(good_page, endless) as (url, sent):
        with pytest.raises(SourceError, match="sends more than its 880 bytes") as caught:
            get(url, tmp_path, monkeypatch)
        assert sent[0] < 64 << 20
    assert caught.value.next
    assert parts(tmp_path) == []


def test_without_a_pinned_size_there_is_a_bound_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST_ARCHIVE", 3 << 20)
    with (
        server(good_page, endless) as (url, _),
        pytest.raises(SourceError, match=f"more than its {3 << 20} bytes"),
    ):
        get(url, tmp_path, monkeypatch, size=None)
    assert parts(tmp_path) == []


@pytest.mark.parametrize("length", [881, 879, 0, 10**15])
def test_a_length_that_isnt_the_pinned_one_is_refused_before_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    def send(to: BaseHTTPRequestHandler) -> None:
        head(to, "application/octet-stream", length)
        to.wfile.write(CONTENT)

    with (
        server(good_page, send) as (url, _),
        pytest.raises(SourceError, match=f"it has {length} bytes, and 880 are pinned"),
    ):
        get(url, tmp_path, monkeypatch)
    assert parts(tmp_path) == []


@pytest.mark.parametrize("length", ["-1", "x", "9" * 5000, "1e3"])
def test_a_length_that_is_no_number_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: str
) -> None:
    def send(to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.send_header("Content-Length", length)
        to.end_headers()
        to.wfile.write(CONTENT)

    with server(good_page, send) as (url, _), pytest.raises(SourceError) as caught:
        get(url, tmp_path, monkeypatch)
    assert caught.value.next


def test_a_byte_at_a_time_is_no_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PROGRESS_SECONDS", 0.3)
    monkeypatch.setattr(download, "TRIES", 1)
    with (
        server(good_page, drip) as (url, _),
        pytest.raises(SourceError, match="bytes came in") as caught,
    ):
        get(url, tmp_path, monkeypatch)
    assert "the same command again" in caught.value.next


def test_headers_without_an_end_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "OPENING_SECONDS", 0.5)
    monkeypatch.setattr(download, "TRIES", 1)
    with (
        server(good_page, drip_headers) as (url, _),
        pytest.raises(SourceError, match="no whole answer in"),
    ):
        get(url, tmp_path, monkeypatch)


@pytest.mark.parametrize("send", [drip, drip_headers])
def test_a_page_without_an_end_in_time_is_left(monkeypatch: pytest.MonkeyPatch, send: Send) -> None:
    monkeypatch.setattr(transfer, "PAGES_SECONDS", 0.5)
    with server(send, whole) as (url, _):
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        with pytest.raises(SourceError, match="could not be asked for vllm"):
            list_files("vllm")


def test_a_page_without_an_end_in_bytes_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAGE_BYTES", 1 << 20)

    def send(to: BaseHTTPRequestHandler) -> None:
        head(to)
        for _ in range(3000):
            to.wfile.write(b"x" * (1 << 20))

    with server(send, whole) as (url, _):
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        with pytest.raises(SourceError, match="a page of more than 1048576"):
            list_files("vllm")


JSON = "application/vnd.pypi.simple.v1+json"
MEMBER = {"filename": NAME, "url": f"/files/{NAME}", "hashes": {}}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{]", JSON),
        (b"", JSON),
        (b"null", JSON),
        (b"[1]", JSON),
        (b'{"files": 1}', JSON),
        (b'{"files": [1]}', JSON),
        (b'{"files": [{"filename": 1, "url": 2}]}', JSON),
        (b"[" * 100_000, JSON),
        (b'{"files": ' + b"9" * 5000 + b"}", JSON),
        (b"\xff\xfe{", JSON),
        (json.dumps({"files": [{**MEMBER, "url": "http://[bad"}]}).encode(), JSON),
        (json.dumps({"files": [{**MEMBER, "hashes": 1}]}).encode(), JSON),
        (json.dumps({"files": [{**MEMBER, "hashes": {"sha256": 5}}]}).encode(), JSON),
        (b'<a href="http://[bad">' + NAME.encode() + b"</a>", "text/html"),
        (b'<base href="http://[bad"><a href="x">' + NAME.encode() + b"</a>", "text/html"),
        (b"\xff\xfe<a", "text/html; charset=no-such"),
        (b"x", "application/octet-stream"),
    ],
)
def test_a_page_of_nonsense_is_an_error_with_an_answer(
    monkeypatch: pytest.MonkeyPatch, content: bytes, kind: str
) -> None:
    with server(page_of(content, kind), whole) as (url, _):
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        with pytest.raises(SourceError) as caught:
            list_files("vllm")
    assert "could not be asked for vllm" in caught.value.what
    assert caught.value.what.isprintable()
    assert caught.value.next


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_link_that_is_no_web_address_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    content = f'<a href="{address}#/{NAME}">{NAME}</a>'
    monkeypatch.setattr(download, "TRIES", 1)
    with server(page_of(content.encode()), whole) as (url, _), pytest.raises(SourceError):
        get(url, tmp_path, monkeypatch)
    with pytest.raises(OSError, match="neither an http nor an https"):
        opened(address, headers={}, timeout=1)


def test_progress_is_so_many_bytes_in_so_many_seconds() -> None:
    now = 0.0
    pace = Pace(0, clock=lambda: now)
    enough = int(transfer.BYTES_A_SECOND * transfer.PROGRESS_SECONDS)
    for minute in range(1, 100):
        now = minute * transfer.PROGRESS_SECONDS
        pace.note(minute * enough)
    now += transfer.PROGRESS_SECONDS - 1
    pace.note(99 * enough)
    now += 1
    with pytest.raises(TooSlow):
        pace.note(100 * enough - 1)
    endless = Pace(0, clock=lambda: now)
    now += transfer.FILE_SECONDS + 1
    with pytest.raises(TooSlow, match="more than 12 hours"):
        endless.note(1 << 40)


def test_what_a_call_raises_or_gives_is_handed_on() -> None:
    assert within(10, lambda: 1) == 1
    with pytest.raises(KeyError):
        within(10, lambda: {"y": 1}["x"])
    with pytest.raises(TooSlow):
        within(0.05, lambda: time.sleep(2))
