# SPDX-License-Identifier: Apache-2.0
"""Asks an OpenAI-compatible server many things at once and says whether its answers stay right.

In: the address of a server of anybody's (`python -m vllm.sm12x.soak URL`). Out: a text on stdout or
one JSON document, an HTML page on request, and exit code 7 when answers go wrong.

How it goes, room by room:

- `options` reads the command line, `errors` has what ends a run before it has a result, `cli` is
  the order of it all.
- `server` speaks HTTP: `client` sends and `stream` reads what comes into the `Answer` of `answers`;
  `discover` finds out what the server is: model, endpoint, context, which parameters it takes.
- `asking`: `prompts` makes conversations, documents with codes in them in families that share a
  prefix; `phases` asks: alone first, then many at once, then alone again (`schedule` says what and
  when); `records` is what is kept.
- `judging`: `level` decides from answers given alone how exactly later ones can be compared;
  `examine` looks at one answer (`compare`), `rates` and `measures` at all; `judge` has the verdict.
- `writing`: `figures`, `report` and `page`.

Only the standard library is imported, and nothing of this package's surroundings: the folder runs
wherever it is put.
"""
