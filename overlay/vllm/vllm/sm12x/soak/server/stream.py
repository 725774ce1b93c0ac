# SPDX-License-Identifier: Apache-2.0
"""Server-sent events of both endpoints, read into the parts of an answer."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .answers import Token


class BadStreamError(Exception):
    """What the server sent is not a stream of completions."""


@dataclass(kw_only=True)
class Parts:
    """An answer as it grows."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Token] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: str | None = None
    ended: bool = False

    def take(self, data: str) -> bool:
        """Add one event's data; whether it brought text. Raises BadStreamError."""
        if data == "[DONE]":
            self.ended = True
            return False
        try:
            event = json.loads(data)
        except ValueError:
            raise BadStreamError(f"an event is not JSON: {data[:80]!r}") from None
        if not isinstance(event, dict):
            raise BadStreamError(f"an event is not an object: {data[:80]!r}")
        if event.get("error"):
            raise BadStreamError(f"an error in the stream: {message_of(event)}")
        return self.add(event)

    def add(self, event: dict[str, Any]) -> bool:
        """Add one event, or the whole answer of a server that doesn't stream."""
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
            self.completion_tokens = _count(usage.get("completion_tokens"), self.completion_tokens)
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return False
        choice = choices[0]
        self.finish = choice.get("finish_reason") or self.finish
        text = _text(choice)
        if text:
            self.texts.append(text)
        self.tokens += _tokens(choice.get("logprobs"))
        return bool(text)

    @property
    def complete(self) -> bool:
        """Whether the server said that this was the end."""
        return self.ended or self.finish is not None


def lines_of_data(lines: Iterator[bytes]) -> Iterator[str]:
    """Return the data of each event; one of several lines is joined."""
    data: list[str] = []
    for raw in lines:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
    if data:
        yield "\n".join(data)


def message_of(body: Any) -> str:
    """Return the words of an error body, however it is nested."""
    for key in ("error", "message", "detail", "msg"):
        if isinstance(body, dict) and body.get(key):
            return message_of(body[key])
    if isinstance(body, list) and body:
        return message_of(body[0])
    return str(body)


def _count(value: Any, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) else otherwise


def _text(choice: dict[str, Any]) -> str:
    # What a model thinks before it answers is part of what it generated.
    part = choice.get("delta") or choice.get("message") or choice
    texts = [part.get(key) for key in ("reasoning_content", "reasoning", "content", "text")]
    if texts[0] and texts[0] == texts[1]:
        texts[1] = None  # some servers send it under both names
    return "".join(text for text in texts if isinstance(text, str))


def _tokens(logprobs: Any) -> list[Token]:
    if not isinstance(logprobs, dict):
        return []
    if isinstance(logprobs.get("content"), list):
        found = [_chat_token(entry) for entry in logprobs["content"]]
    else:
        tops = logprobs.get("top_logprobs") or []
        rows = zip(logprobs.get("tokens") or [], logprobs.get("token_logprobs") or [], strict=False)
        found = [_text_token(row, tops, place) for place, row in enumerate(rows)]
    return [token for token in found if token is not None]


def _chat_token(entry: Any) -> Token | None:
    if not isinstance(entry, dict) or not _number(entry.get("logprob")):
        return None
    top = [t for t in entry.get("top_logprobs") or [] if isinstance(t, dict)]
    return Token(
        text=str(entry.get("token")),
        logprob=float(entry["logprob"]),
        top=tuple((str(t.get("token")), float(t["logprob"])) for t in top if "logprob" in t),
    )


def _text_token(row: tuple[Any, Any], tops: list[Any], place: int) -> Token | None:
    text, logprob = row
    if not _number(logprob):
        return None
    top = tops[place] if place < len(tops) and isinstance(tops[place], dict) else {}
    pairs = tuple((str(key), float(value)) for key, value in top.items() if _number(value))
    return Token(text=str(text), logprob=float(logprob), top=pairs)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
