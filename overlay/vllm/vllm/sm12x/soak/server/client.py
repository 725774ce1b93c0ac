# SPDX-License-Identifier: Apache-2.0
"""HTTP to one server: a connection a request, so that closing one cancels its request."""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..errors import SoakError
from .answers import Answer, Outcome
from .stream import BadStreamError, Parts, lines_of_data, message_of

CONNECT_S = 10.0
CONNECT_AGAIN_S = (0.1, 0.4)
BUSY = (429, 503)
# A server that sends this many times what was asked for isn't going to end.
RUNAWAY = 4


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the API of a server is."""

    scheme: str
    host: str
    port: int
    path: str
    """Up to and with /v1, without a slash at the end."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def read_address(text: str) -> Address:
    """Return the address that somebody typed, with or without a scheme and /v1."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError as error:
        raise SoakError(f"{text!r} is not an address: {error}. Type http://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SoakError(f"{text!r} is not an address of a server. Type http://HOST:PORT")
    if parts.username or parts.password:
        raise SoakError(
            "The address has a name or password in it, which would be printed. Put a key into the "
            "environment instead (OPENAI_API_KEY, or the variable that --api-key-env names)."
        )
    path = parts.path.rstrip("/")
    for ending in ("/chat/completions", "/completions", "/models"):
        path = path.removesuffix(ending)
    return Address(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port or (443 if parts.scheme == "https" else 80),
        path=path if path.endswith("/v1") else f"{path}/v1",
    )


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One POST: where to, what, and what to put up with."""

    path: str
    body: dict[str, Any]
    first_limit_s: float
    """Seconds until the first text."""
    stall_s: float
    """Seconds between one text and the next."""
    cancel_after: int | None = None
    """Close the connection after so many pieces of text."""


class Client:
    """Asks one server; may be used by many threads at once. The key never leaves it in a text."""

    def __init__(self, address: Address, *, key: str | None, verify: bool = True) -> None:
        self.address = address
        self._key = key
        self._context = ssl.create_default_context() if address.scheme == "https" else None
        if self._context and not verify:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self.asked = 0
        """Requests so far."""

    def close(self) -> None:
        """End every request that is under way, and refuse new ones."""
        with self._lock:
            self._closed = True
            for held in self._open:
                # A thread that reads from it sees its end at once; closing alone would not wake it.
                with contextlib.suppress(OSError):
                    held.shutdown(socket.SHUT_RDWR)

    def get(self, path: str, timeout: float) -> tuple[int, Any]:
        """Return status and body, from JSON if it is that. Raises OSError or HTTPException."""
        with self._connection(timeout) as connection:
            connection.request("GET", f"{self.address.path}{path}", headers=self._headers())
            response = connection.getresponse()
            return response.status, self._body(response)

    def ask(self, ask: Ask) -> Answer:
        """Return what came back for a request, however it ended."""
        with self._lock:
            self.asked += 1
        started = time.monotonic()
        parts = Parts()
        first: list[float] = []
        pieces = [0]
        status: int | None = None
        outcome, detail = Outcome.DONE, ""
        try:
            with self._connection(CONNECT_S) as connection:
                held = connection.sock
                held.settimeout(ask.first_limit_s)
                connection.request(
                    "POST",
                    f"{self.address.path}{ask.path}",
                    body=json.dumps(ask.body).encode(),
                    headers=self._headers(),
                )
                response = connection.getresponse()
                status = response.status
                if status != 200:
                    outcome, detail = self._refusal(status, self._body(response))
                else:
                    outcome, detail = self._read(ask, response, held, parts, first, pieces, started)
        except TimeoutError:
            outcome, detail = Outcome.STALLED, _waited(first, ask)
        except BadStreamError as error:
            outcome, detail = Outcome.ERROR, self._clean(str(error))
        except (OSError, http.client.HTTPException, ValueError) as error:
            outcome, detail = Outcome.DROPPED, self._clean(f"{type(error).__name__}: {error}")
        return Answer(
            outcome=outcome,
            text="".join(parts.texts),
            tokens=tuple(parts.tokens),
            pieces=pieces[0],
            first_s=first[0] if first else None,
            total_s=time.monotonic() - started,
            prompt_tokens=parts.prompt_tokens,
            completion_tokens=parts.completion_tokens,
            finish=parts.finish,
            status=status,
            detail=detail,
        )

    def _read(
        self,
        ask: Ask,
        response: http.client.HTTPResponse,
        held: socket.socket,
        parts: Parts,
        first: list[float],
        pieces: list[int],
        started: float,
    ) -> tuple[Outcome, str]:
        if "json" in (response.getheader("Content-Type") or ""):
            body = self._body(response)
            if not isinstance(body, dict) or "choices" not in body:
                return Outcome.ERROR, "the body is no completion"
            pieces[0] = int(parts.add(body))
            first.append(time.monotonic() - started)
            return Outcome.DONE, ""
        deadline = [started + ask.first_limit_s]
        for data in lines_of_data(_before(deadline, response)):
            if parts.take(data):
                now = time.monotonic()
                if not first:
                    first.append(now - started)
                pieces[0] += 1
                # Comments that keep a connection alive are no answer, so the clock is ours.
                deadline[0] = now + ask.stall_s
                held.settimeout(ask.stall_s)
                if ask.cancel_after is not None and pieces[0] >= ask.cancel_after:
                    return Outcome.CANCELLED, ""
                if pieces[0] > RUNAWAY * ask.body["max_tokens"] + 64:
                    return Outcome.ERROR, "more came than was asked for, without an end"
            if parts.ended:
                return Outcome.DONE, ""
        if not parts.complete:
            return Outcome.DROPPED, "the stream ended without a reason to finish"
        return Outcome.DONE, ""

    def _refusal(self, status: int, body: Any) -> tuple[Outcome, str]:
        words = self._clean(f"HTTP {status}: {message_of(body)}")
        if status in BUSY:
            return Outcome.BUSY, words
        return (Outcome.REFUSED if 300 <= status < 500 else Outcome.ERROR), words

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers["Accept"] += ", text/event-stream"
        return headers | ({"Authorization": f"Bearer {self._key}"} if self._key else {})

    def _body(self, response: http.client.HTTPResponse) -> Any:
        raw = response.read(4 << 20).decode("utf-8", "replace")
        try:
            return json.loads(raw)
        except ValueError:
            return raw

    def _clean(self, text: str) -> str:
        # Some servers repeat the key that they don't like.
        hidden = text.replace(self._key, "***") if self._key else text
        return " ".join(hidden.split())[:300]

    @contextlib.contextmanager
    def _connection(self, timeout: float) -> Iterator[http.client.HTTPConnection]:
        host, port = self.address.host, self.address.port
        connection: http.client.HTTPConnection
        if self._context is None:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
        else:
            connection = http.client.HTTPSConnection(
                host, port, timeout=timeout, context=self._context
            )
        _connect(connection)
        held = connection.sock
        with self._lock:
            self._open.add(held)
            closed = self._closed
        try:
            if closed:
                raise ConnectionAbortedError("interrupted")
            yield connection
        finally:
            with self._lock:
                self._open.discard(held)
            connection.close()
            # A response that is still open keeps the connection of its own.
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            held.close()


def _connect(connection: http.client.HTTPConnection) -> None:
    # A server whose queue of new connections is full for a moment has answered nothing wrongly.
    for wait in CONNECT_AGAIN_S:
        try:
            return connection.connect()
        except (ConnectionRefusedError, ConnectionResetError):
            time.sleep(wait)
    return connection.connect()


def _before(deadline: list[float], response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Return the lines of a response; TimeoutError when one comes after the deadline of then."""
    while line := response.readline():
        if time.monotonic() > deadline[0]:
            raise TimeoutError
        yield line


def _waited(first: list[float], ask: Ask) -> str:
    if first:
        return f"nothing came for {ask.stall_s:.0f} s in the midst of an answer"
    return f"nothing came for {ask.first_limit_s:.0f} s"
