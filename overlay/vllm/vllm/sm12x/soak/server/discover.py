# SPDX-License-Identifier: Apache-2.0
"""What kind of server it is: model, endpoint, context, and which parameters it takes."""

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..errors import NoServerError, SoakError
from .answers import Answer, Outcome
from .client import Ask, Client
from .stream import message_of

GET_S = 30.0
# Where servers say how many tokens a request may have, prompt and answer together.
CONTEXT_NAMES = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx")
UNKNOWN_CONTEXT = 4096
# English text has about four characters a token; servers that don't count get a careful guess.
UNKNOWN_CHARS = 2.0
PROBE = "the grey ferry carried tin to the northern quay. "
TOP = 5


class Endpoint(str, Enum):
    """Where a prompt is sent."""

    CHAT = "chat"
    COMPLETIONS = "completions"

    @property
    def path(self) -> str:
        return "/chat/completions" if self is Endpoint.CHAT else "/completions"


class Feature(str, Enum):
    """A parameter that not every server takes."""

    LOGPROBS = "logprobs"
    USAGE = "stream_options"
    SEED = "seed"
    COLD = "cache_salt"
    """A prompt can be kept away from the prefix cache (vLLM's and llama.cpp's parameters)."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """What a run needs to know of the server."""

    url: str
    model: str
    endpoint: Endpoint
    context: int
    """Tokens of prompt and answer together."""
    context_from: str
    chars_per_token: float
    chars_from: str
    overhead: int
    """Tokens of a prompt beside its text."""
    features: frozenset[Feature]
    extra: Mapping[str, Any]

    def body(self, prompt: str | list[dict[str, str]], max_tokens: int, *, salt: str | None) -> Any:
        """Return the body of a request; with a salt it is not to come from the prefix cache."""
        return _body(self.model, self.endpoint, self.features, prompt, max_tokens, salt) | {
            **self.extra
        }


def discover(
    client: Client,
    *,
    model: str | None,
    endpoint: Endpoint | None,
    context: int | None,
    extra: Mapping[str, Any],
    patience_s: float,
    tell: Callable[[str], None],
) -> Server:
    """Ask the server who it is. Raises SoakError with what to type where that can't work."""
    models = list_models(client)
    chosen = choose(models, model)
    tell(f"model {chosen}")
    probe = _Prober(client, chosen, extra, patience_s, [str(m["id"]) for m in models])
    place = probe.endpoint(endpoint)
    features = probe.features(place)
    chars, overhead, chars_from = probe.measure(place, features)
    told = next((_context_of(m) for m in models if m["id"] == chosen and _context_of(m)), None)
    if context is not None:
        size, size_from = context, "--context"
        if told is not None and context > told:
            raise SoakError(
                f"--context {context} is more than the server's {told} tokens. Type {told} or less."
            )
    elif told is not None:
        size, size_from = told, "/v1/models"
    else:
        size, size_from = UNKNOWN_CONTEXT, "a guess: the server doesn't say, --context does"
    return Server(
        url=client.address.url,
        model=chosen,
        endpoint=place,
        context=size,
        context_from=size_from,
        chars_per_token=chars,
        chars_from=chars_from,
        overhead=overhead,
        features=features,
        extra=extra,
    )


def list_models(client: Client) -> list[dict[str, Any]]:
    """Return the entries of /v1/models. Raises SoakError where it isn't such a server."""
    url = client.address.url
    try:
        status, body = client.get("/models", GET_S)
    except TimeoutError:
        raise NoServerError(
            f"{url}/models gave no answer in {GET_S:.0f} s: the server is loading, or it hangs. "
            "Wait until `curl URL/v1/models` answers, then type the same again."
        ) from None
    except http.client.HTTPException as error:
        raise SoakError(
            f"{url} doesn't speak HTTP ({type(error).__name__}). Is this the port of the API?"
        ) from None
    except OSError as error:
        raise NoServerError(
            f"{url} can't be reached: {error}. Start the server, or mend host, port and scheme."
        ) from None
    if status in (401, 403):
        raise SoakError(
            f"{url} wants a key, or another one (HTTP {status}). Put it into the environment as "
            "OPENAI_API_KEY, or name the variable that has it: --api-key-env NAME."
        )
    entries = body.get("data") if isinstance(body, dict) else None
    if status != 200 or not isinstance(entries, list):
        raise SoakError(
            f"{url}/models gave HTTP {status} and no list of models, so this is not an "
            "OpenAI-compatible server, or its API has another path. Give the address up to /v1."
        )
    return [entry for entry in entries if isinstance(entry, dict) and "id" in entry]


def choose(models: list[dict[str, Any]], asked: str | None) -> str:
    """Return the model to ask. Raises SoakError if that isn't clear."""
    names = [str(model["id"]) for model in models]
    if asked is not None:
        return asked  # some servers take more than they list; the first request will tell
    bases = [str(model["id"]) for model in models if not model.get("parent")]
    if len(bases) == 1:
        return bases[0]
    if not names:
        raise SoakError("The server lists no model. Name it: --model NAME.")
    listed = ", ".join(sorted(names)[:12])
    raise SoakError(f"The server has {len(names)} models. Name one: --model NAME, of {listed}.")


def _context_of(model: dict[str, Any]) -> int | None:
    meta = model.get("meta")
    for place in (model, meta if isinstance(meta, dict) else {}):
        for name in CONTEXT_NAMES:
            if isinstance(place.get(name), int) and place[name] > 0:
                return int(place[name])
    return None


def _body(
    model: str,
    endpoint: Endpoint,
    features: frozenset[Feature],
    prompt: str | list[dict[str, str]],
    max_tokens: int,
    salt: str | None,
) -> dict[str, Any]:
    chat = endpoint is Endpoint.CHAT
    body: dict[str, Any] = {
        "model": model,
        "messages" if chat else "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
    if Feature.SEED in features:
        body["seed"] = 0
    if Feature.USAGE in features:
        body["stream_options"] = {"include_usage": True}
    if Feature.LOGPROBS in features:
        body |= {"logprobs": True, "top_logprobs": TOP} if chat else {"logprobs": TOP}
    if Feature.COLD in features and salt is not None:
        body |= {"cache_salt": salt, "cache_prompt": False}
    return body


class _Prober:
    def __init__(
        self, client: Client, model: str, extra: Mapping[str, Any], limit_s: float, names: list[str]
    ) -> None:
        self.client, self.model, self.extra = client, model, extra
        self.limit_s, self.names = limit_s, names

    def ask(
        self, endpoint: Endpoint, features: frozenset[Feature], text: str, tokens: int
    ) -> Answer:
        chat = endpoint is Endpoint.CHAT
        prompt: Any = [{"role": "user", "content": text}] if chat else text
        body = _body(self.model, endpoint, features, prompt, tokens, "probe") | {**self.extra}
        limit = self.limit_s
        return self.client.ask(
            Ask(path=endpoint.path, body=body, first_limit_s=limit, stall_s=limit)
        )

    def endpoint(self, asked: Endpoint | None) -> Endpoint:
        refused: list[tuple[Endpoint, Answer]] = []
        for endpoint in (asked,) if asked else (Endpoint.CHAT, Endpoint.COMPLETIONS):
            answer = self.ask(endpoint, frozenset(), PROBE, 4)
            if answer.outcome is Outcome.DONE:
                return endpoint
            refused.append((endpoint, answer))
        raise self._why(refused)

    def _why(self, refused: list[tuple[Endpoint, Answer]]) -> SoakError:
        words = "; ".join(f"{e.value}: {a.detail or a.outcome.value}" for e, a in refused)
        statuses = {answer.status for _, answer in refused}
        if statuses & {401, 403}:
            return SoakError(
                f"The server wants a key, or another one ({words}). Put it into the environment "
                "as OPENAI_API_KEY, or name the variable: --api-key-env NAME."
            )
        if self.model not in self.names:
            listed = ", ".join(sorted(self.names)[:12]) or "none"
            return SoakError(
                f"The server doesn't know the model {self.model!r} ({words}). It lists: {listed}. "
                "Name one of these with --model."
            )
        if any(answer.outcome is Outcome.STALLED for _, answer in refused):
            return NoServerError(
                f"The server takes a request and doesn't answer it ({words}). Give it more time "
                "with --first-token SECONDS, or look at its log."
            )
        return SoakError(
            f"No endpoint takes a prompt of one sentence ({words}). Choose the other --endpoint, "
            "or add what this server needs: --extra-body '{...}'."
        )

    def features(self, endpoint: Endpoint) -> frozenset[Feature]:
        """Return the parameters that the server takes: all of them, or those it takes alone."""
        found = frozenset(Feature)
        answer = self.ask(endpoint, found, PROBE, 2)
        if answer.outcome is not Outcome.DONE:
            found = frozenset(
                feature
                for feature in Feature
                if self.ask(endpoint, frozenset({feature}), PROBE, 2).outcome is Outcome.DONE
            )
            answer = self.ask(endpoint, found, PROBE, 2)
        if answer.outcome is not Outcome.DONE:
            return frozenset()
        # Many servers take what they don't know and leave it out.
        return found if answer.tokens else found - {Feature.LOGPROBS}

    def measure(self, endpoint: Endpoint, features: frozenset[Feature]) -> tuple[float, int, str]:
        """Return characters a token, tokens beside the text, and where this is from."""
        short, long = PROBE, PROBE * 5
        counts = [self.ask(endpoint, features, t, 2).prompt_tokens for t in (short, long)]
        if counts[0] is None or counts[1] is None or counts[1] <= counts[0]:
            return UNKNOWN_CHARS, 64, "a guess: the server doesn't count"
        chars = (len(long) - len(short)) / (counts[1] - counts[0])
        return chars, max(0, round(counts[0] - len(short) / chars)), "measured"


def explain_refusal(answer: Answer, server: Server) -> SoakError:
    """Return what to do about a prompt of the run that the server didn't take."""
    return SoakError(
        f"The server refused a prompt of the run ({message_of(answer.detail)}). The context is "
        f"{server.context} tokens ({server.context_from}), a token has about "
        f"{server.chars_per_token:.1f} characters ({server.chars_from}). Give a smaller one: "
        f"--context {max(1, server.context * 3 // 4)}."
    )
