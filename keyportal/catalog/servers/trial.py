"""Tries a model server as calls use it: connection, credential, list, and one short answer."""

import json
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any, NamedTuple

from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.models import BUILT_IN_URL, Upstream
from keyportal.catalog.servers.discovery import (
    BareList,
    DiscoveryFailed,
    escaped,
    is_anthropic,
    model_ids,
    send,
    without_secrets,
)
from keyportal.http.fetch import reason_of

TOKEN_SECONDS = 30.0  # A model that must be loaded first takes a while.
SAID_LENGTH = 400
REFUSED = {401, 402, 403}
TEXTS: tuple[tuple[str | int, ...], ...] = (
    ("choices", 0, "message", "content"),
    ("content", 0, "text"),  # Anthropic's.
    ("error", "message"),
    ("error",),
    ("message",),
    ("detail",),
)
"""Where servers put the words of an answer or of an error."""


class Step(NamedTuple):
    name: str
    is_good: bool | None
    """None: it was not tried, or says nothing."""
    text: str


def try_server(upstream: Upstream, model: str = "") -> Iterator[Step]:
    """Four steps. `model` is the model's name on the server; by default the first that it lists."""
    if upstream.base_url == BUILT_IN_URL:
        yield Step("Connection", True, "It is the built-in demo model.")
        return
    try:
        ids, refusal = model_ids(upstream), None
    except CredentialUnreadable as error:
        yield Step("Credential", False, f"{error} Enter it again.")
        return
    except BareList as error:
        ids, refusal = error.ids, None
    except DiscoveryFailed as error:
        ids, refusal = [], error
    yield from _about_list(upstream, ids, refusal)
    if refusal is None or refusal.status is not None:
        yield _short_answer(upstream, model or next(iter(ids), ""))


def _about_list(
    upstream: Upstream, ids: list[str], refusal: DiscoveryFailed | None
) -> Iterator[Step]:
    status = refusal.status if refusal else 200
    text = _beginning(str(refusal or ""), upstream)
    if status is None:
        yield Step("Connection", False, text)
        return
    yield Step("Connection", True, "It answers.")
    has_one = bool(upstream.encrypted_credential)
    if status in REFUSED:
        advice = "It refuses the credential." if has_one else "It wants a credential."
        yield Step("Credential", False, f"{advice} {text}")
    elif refusal is None:
        yield Step("Credential", True, "Accepted." if has_one else "None is needed for the list.")
    else:
        yield Step("Credential", None, "Not known, because there is no list.")
    if refusal is None:
        yield Step("List of models", True, f"{len(ids)} model{'' if len(ids) == 1 else 's'}.")
    else:
        yield Step("List of models", None, f"{text} Models can be added by their names.")


def _short_answer(upstream: Upstream, model: str) -> Step:
    if not model:
        return Step("Short answer", None, "Not tried: it has no model.")
    path, _, query = upstream.base_url.partition("?")
    endpoint = "/messages" if is_anthropic(upstream) else "/chat/completions"
    url = f"{path}{endpoint}{'?' if query else ''}{query}"
    messages = [{"role": "user", "content": "Hi"}]
    body = json.dumps({"model": model, "max_tokens": 1, "messages": messages}).encode()
    try:
        reply = send(url, upstream, body=body, seconds=TOKEN_SECONDS)
    except (OSError, HTTPException) as error:
        said = _beginning(reason_of(error), upstream)
        return Step("Short answer", False, f"{model}: {said}.")
    said = _beginning(_text_of(reply.body), upstream)
    if not 200 <= reply.status < 300:
        return Step(
            "Short answer", False, f"{model} answered {reply.status}: {said or 'no reason'}"
        )
    return Step("Short answer", True, f"{model} said: {said}" if said else f"{model} answered.")


def _text_of(body: bytes) -> str:
    """What the server says in its JSON, or all of it if that is none."""
    text = body.decode("utf-8", "replace")
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return text
    found = (_value_at(answer, path) for path in TEXTS)
    return next((value for value in found if isinstance(value, str) and value.strip()), "")


def _value_at(answer: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        try:
            answer = answer[step]
        except (LookupError, TypeError):
            return None
    return answer


def _beginning(text: str, upstream: Upstream) -> str:
    return escaped(without_secrets(text, upstream)[:SAID_LENGTH], SAID_LENGTH)
