# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server on loopback, with continuous batching, and with faults on request."""

import contextlib
import json
import math
import queue
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from soak_models import END, Likely, Model


class Fault(Enum):
    """What goes wrong in a server; the stale prefix is the model's `stale`."""

    NONE = "none"
    CROSSED = "crossed"
    """Two answers that are made at once go to each other's askers, from some token on."""
    GARBLED = "garbled"
    """After some requests, what was read of a prompt is damaged."""
    STALL = "stall"
    """After some requests, an answer stops and its connection stays."""
    FAILS = "fails"
    """After some requests, HTTP 500."""
    CUT = "cut"
    """After some requests, a stream ends in its midst."""


@dataclass(kw_only=True)
class Settings:
    """How the server is."""

    fault: Fault = Fault.NONE
    after: int = 0
    share: float = 1.0
    """Of the requests after that, which have the fault."""
    temperature: float = 0.0
    """It samples so, whatever it is asked."""
    noise: float = 0.0
    """Nats of noise on a score when others are in the batch, as other kernels give."""
    logprobs: bool = True
    usage: bool = True
    cold: bool = True
    """Takes cache_salt."""
    strict: bool = False
    """Refuses parameters that it doesn't know."""
    chat: bool = True
    key: str | None = None
    name: str = "small"
    says_context: bool = True
    width: int = 8
    pace_s: float = 0.0
    """Seconds a step takes longer."""
    seed: int = 0


@dataclass(kw_only=True, eq=False)
class Asked:
    """A request in the server."""

    prompt: str
    max_tokens: int
    cold: bool
    number: int
    faulty: bool
    out: "queue.SimpleQueue[tuple[str, Likely] | None]" = field(default_factory=queue.SimpleQueue)
    made: int = 0
    state: Any = None
    gone: bool = False


class Engine:
    """Makes answers for all requests at once, a token each in turn."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.waiting: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self.rng = random.Random(settings.seed)
        self.number = 0
        self.lock = threading.Lock()
        self.closed = False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def ask(self, prompt: str, max_tokens: int, cold: bool) -> Asked:
        """Queue a request."""
        with self.lock:
            self.number += 1
            faulty = self.number > self.settings.after and self.rng.random() < self.settings.share
            asked = Asked(
                prompt=prompt, max_tokens=max_tokens, cold=cold, number=self.number, faulty=faulty
            )
        self.waiting.put(asked)
        return asked

    def _work(self) -> None:
        active: list[Asked] = []
        while not self.closed:
            active = [asked for asked in active if not asked.gone]
            while len(active) < self.settings.width:
                try:
                    new = self.waiting.get(block=not active, timeout=0.2)
                except queue.Empty:
                    break
                new.state = self.model.start(new.prompt, new.cold)
                if new.faulty and self.settings.fault is Fault.GARBLED:
                    self.model.spoil(new.state, self.rng)
                self._cross(new, active)
                active.append(new)
            if active:
                time.sleep(self.settings.pace_s)
                self._step(active)

    def _cross(self, new: Asked, active: list[Asked]) -> None:
        if new.faulty and active and self.settings.fault is Fault.CROSSED:
            other = self.rng.choice(active)
            new.state, other.state = other.state, new.state

    def _step(self, active: list[Asked]) -> None:
        likely = self.model.step([asked.state for asked in active])
        noise = self.settings.noise if len(active) > 1 else 0.0
        for asked, some in zip(list(active), likely, strict=True):
            token, top = self._pick(some, noise)
            asked.made += 1
            stopped = asked.faulty and self.settings.fault is Fault.STALL and asked.made > 3
            if stopped:
                active.remove(asked)
            elif token == END or asked.gone:
                asked.out.put(None)
                active.remove(asked)
            else:
                self.model.push(asked.state, token)
                asked.out.put((token, top))
                if asked.made >= asked.max_tokens:
                    asked.out.put(None)
                    active.remove(asked)

    def _pick(self, likely: Likely, noise: float) -> tuple[str, Likely]:
        if noise:
            moved = [(t, score + self.rng.gauss(0.0, noise)) for t, score in likely]
            likely = sorted(moved, key=lambda item: -item[1])
        if not self.settings.temperature:
            return likely[0][0], likely
        weights = [math.exp((s - likely[0][1]) / self.settings.temperature) for _, s in likely]
        return self.rng.choices([t for t, _ in likely], weights)[0], likely


class Handler(BaseHTTPRequestHandler):
    """The API; the server of a handler has `engine` and `settings`."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        settings = self.server.settings
        if not self._allowed():
            return
        if self.path != "/v1/models":
            self._json(404, {"error": {"message": "no such path"}})
            return
        entry: dict[str, Any] = {"id": settings.name, "object": "model"}
        if settings.says_context:
            entry["max_model_len"] = self.server.engine.model.context
        self._json(200, {"object": "list", "data": [entry]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed() or not self._takes(body):
            return
        chat = "messages" in body
        prompt = template(body["messages"]) if chat else body["prompt"]
        engine = self.server.engine
        tokens = engine.model.count(prompt)
        if tokens + body["max_tokens"] > engine.model.context:
            self._json(400, {"error": {"message": f"maximum context length, {tokens} tokens"}})
            return
        asked = engine.ask(prompt, body["max_tokens"], "cache_salt" in body)
        if asked.faulty and self.server.settings.fault is Fault.FAILS:
            asked.gone = True
            self._json(500, {"error": {"message": "internal error"}})
            return
        try:
            self._stream(asked, body, chat, tokens)
        except OSError:
            asked.gone = True

    def _allowed(self) -> bool:
        key = self.server.settings.key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return True
        said = self.headers.get("Authorization")
        self._json(401, {"error": {"message": f"invalid key {said}"}})
        return False

    def _takes(self, body: dict[str, Any]) -> bool:
        settings = self.server.settings
        problem, status = "", 400
        if self.path == "/v1/chat/completions" and not settings.chat:
            problem = "no chat template"
        elif body["model"] != settings.name:
            problem, status = f"The model {body['model']} does not exist.", 404
        elif settings.strict:
            known = {"model", "messages", "prompt", "max_tokens", "temperature", "stream"}
            known |= {"logprobs", "top_logprobs"} if settings.logprobs else set()
            known |= {"stream_options"} if settings.usage else set()
            known |= {"cache_salt", "cache_prompt"} if settings.cold else set()
            if unknown := sorted(set(body) - known):
                problem, status = f"unexpected {unknown}", 422
        if problem:
            self._json(status, {"error": {"message": problem}})
        return not problem

    def _stream(self, asked: Asked, body: dict[str, Any], chat: bool, tokens: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        settings, made = self.server.settings, 0
        for token, top in self._tokens(asked):
            made += 1
            self._event(_choice(token, top, chat, bool(body.get("logprobs")) and settings.logprobs))
            if asked.faulty and settings.fault is Fault.CUT and made > 3:
                asked.gone = True
                return
        finish = "length" if made >= body["max_tokens"] else "stop"
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        self._event({"choices": [{"index": 0, **last, "finish_reason": finish}]})
        if body.get("stream_options") and settings.usage:
            usage = {"prompt_tokens": tokens, "completion_tokens": made}
            self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _tokens(self, asked: Asked) -> Iterator[tuple[str, Likely]]:
        while True:
            try:
                item = asked.out.get(timeout=0.5)
            except queue.Empty:
                self.wfile.write(b": waiting\n\n")  # as proxies do; it is no text
                self.wfile.flush()
                continue
            if item is None:
                return
            yield item

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)


def template(messages: list[dict[str, str]]) -> str:
    """Return the text of a chat; it ends with how the answer begins, as templates may."""
    text = "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
    last = messages[-1]["content"]
    place = re.search(r"access code of the (\w+)[?.]", last[last.rfind("\n") + 1 :])
    if place is None:
        return f"{text}\n\nassistant:"
    if "numbers" not in last:
        return f"{text}\n\nassistant: The access code of the {place[1]} is"
    code = re.search(rf"access code of the {place[1]} is ([A-Z]{{2}}-\d{{5}})", text)
    return f"{text}\n\nassistant: 0 {code[1] if code else ''}\n"


def _choice(token: str, top: Likely, chat: bool, logprobs: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": None}
    choice |= {"delta": {"content": token}} if chat else {"text": token}
    if logprobs:
        value = dict(top)[token]
        if chat:
            tops = [{"token": t, "logprob": p} for t, p in top[:5]]
            entry = {"token": token, "logprob": value, "top_logprobs": tops}
            choice["logprobs"] = {"content": [entry]}
        else:
            choice["logprobs"] = {
                "tokens": [token], "token_logprobs": [value], "top_logprobs": [dict(top[:5])],
            }  # fmt: skip
    return {"choices": [choice]}


class Server(ThreadingHTTPServer):
    """The server; its address is `url`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, model: Model, settings: Settings) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.settings, self.engine = settings, Engine(model, settings)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving(model: Model, settings: Settings | None = None) -> Iterator[Server]:
    """Serve while the block runs."""
    server = Server(model, settings or Settings())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.engine.closed = True
        server.shutdown()
        thread.join()
        server.server_close()
