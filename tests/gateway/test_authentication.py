"""Who calls: the header is read from one place, and only a right checksum costs a query."""

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyportal.gateway.admission.batch import Admitted
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.authentication import BearerAuthMiddleware, bearer_token
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.errors import (
    AddressNotAllowed,
    GatewayError,
    InvalidKey,
    MissingCredentials,
    Unauthorized,
)
from keyportal.gateway.metering.meter import Meter
from keyportal.gateway.metering.writer import Writer
from keyportal.http.types import Headers, Receive, Scope, Send
from keyportal.keys import keystring
from tests.support.asgi import Client, scope
from tests.support.speed import takes

pytestmark = pytest.mark.any_database

KEY = keystring.generate().text.encode()
OTHER = keystring.generate().text.encode()
VERDICT = Verdict(7, "7QmX2aPd", 1)


class SpiedAdmission:
    """Answers every question alike and remembers it."""

    def __init__(self, verdict: Verdict | None = VERDICT) -> None:
        self.verdict = verdict
        self.asked: list[bytes] = []
        self.refusal: GatewayError | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def admit(
        self, digest: bytes, address: str | None, *, is_counted: bool
    ) -> Admitted | None:
        self.asked.append(digest)
        if self.refusal is not None:
            raise self.refusal
        return self.verdict and Admitted(self.verdict)


class Door:
    """The middleware around an application that remembers the scopes it was given."""

    def __init__(self, verdict: Verdict | None = VERDICT) -> None:
        self.admission = SpiedAdmission(verdict)
        self.flight = ActiveCalls()
        self.meter = Meter("worker", Writer())
        self.let_in: list[Scope] = []
        self.in_flight = 0

    def call(self, headers: Headers, **more: object) -> None:
        admission = cast("Admission", self.admission)
        door = BearerAuthMiddleware(self._app, admission, self.flight, self.meter)
        client = Client()
        asked = scope(headers=headers, **{"keyportal.request_id": "req_1", **more})  # type: ignore[arg-type]
        asyncio.run(door(asked, client.receive, client.send))

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_flight = len(self.flight)
        self.let_in.append(scope)


def authorization(*values: bytes) -> Headers:
    return [(b"authorization", value) for value in values]


def has_right_checksum(token: bytes) -> bool:
    return keystring.checksum(token[:-6]) == token[-6:]


def spoilt(key: bytes, position: int, byte: int) -> bytes:
    return key[:position] + bytes([byte]) + key[position + 1 :]


keys = st.builds(keystring.generate).map(lambda key: key.text.encode())
near_keys = st.builds(spoilt, keys, st.integers(0, 51), st.integers(0, 255))
tokens = keys | near_keys | st.binary(max_size=80) | st.just(b"")
schemes = st.sampled_from([b"Bearer", b"bearer", b"BEARER", b"Basic", b"Token", b""])
spaces = st.sampled_from([b" ", b"  ", b"\t", b"", b",", b"\xa0"])
values = st.builds(lambda *parts: b"".join(parts), schemes, spaces, tokens, spaces) | tokens
names = st.sampled_from([b"authorization", b"x-api-key"] * 2 + [b"cookie", b"api-key"])


@given(st.lists(st.tuples(names, values), max_size=3))
def test_no_headers_raise_anything_but_a_refusal_nor_ask_without_a_right_checksum(
    headers: Headers,
) -> None:
    door = Door()
    try:
        door.call(headers)
    except Unauthorized:
        assert not door.admission.asked
        assert not door.let_in
    else:
        (token,) = {
            value.strip(b" ") if name == b"x-api-key" else value.split(b" ", 1)[1].strip(b" ")
            for name, value in headers
            if name in {b"authorization", b"x-api-key"} and value.strip(b" ")
        }
        assert has_right_checksum(token)
        assert door.admission.asked == [keystring.digest(token)]


@given(st.binary(max_size=200) | near_keys)
def test_no_token_asks_unless_its_checksum_is_right(token: bytes) -> None:
    door = Door()
    try:
        door.call(authorization(b"Bearer " + token))
    except GatewayError:
        assert not door.admission.asked
    else:
        assert has_right_checksum(token.strip(b" "))


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"bEaReR"])
def test_scheme_is_case_insensitive(scheme: bytes) -> None:
    assert bearer_token(authorization(scheme + b" " + KEY)) == KEY


@pytest.mark.parametrize(
    "value", [b"Bearer   " + KEY, b"Bearer " + KEY + b"  "], ids=["before", "after"]
)
def test_spaces_around_the_token_do_not_count(value: bytes) -> None:
    assert bearer_token(authorization(value)) == KEY


@pytest.mark.parametrize(
    "headers",
    [
        [],
        authorization(b""),
        authorization(b"Bearer"),
        authorization(b"Bearer "),
        authorization(b"Bearer    "),
        authorization(KEY),
        authorization(b"Basic " + KEY),
        authorization(b"Bearer\t" + KEY),
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"  ")],
        [(b"x-api-key", b""), (b"x-api-key", b"")],
        [(b"api-key", KEY)],
        [(b"anthropic-api-key", KEY)],
        [(b"cookie", b"authorization=Bearer " + KEY)],
        [(b"proxy-authorization", b"Bearer " + KEY)],
    ],
)
def test_a_key_anywhere_else_is_no_credential(headers: Headers) -> None:
    door = Door()
    with pytest.raises(MissingCredentials):
        door.call(headers)
    assert not door.admission.asked


def both(bearer: bytes, *keys: bytes) -> Headers:
    return [(b"authorization", bearer), *((b"x-api-key", key) for key in keys)]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", KEY)],
        [(b"x-api-key", b" " + KEY + b" ")],
        both(b"Bearer " + KEY, KEY),
        both(b"Bearer " + KEY, b""),
        [*both(b"Bearer " + KEY, KEY)][::-1],
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/models"])
def test_a_key_may_come_as_anthropics_clients_send_it_at_every_path(
    headers: Headers, path: str
) -> None:
    door = Door()
    door.call(headers, path=path)
    assert door.admission.asked == [keystring.digest(KEY)]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", KEY), (b"x-api-key", KEY)],
        [(b"x-api-key", KEY), (b"x-api-key", OTHER)],
        [(b"x-api-key", b"Bearer " + KEY)],
        [(b"x-api-key", KEY + b", " + OTHER)],
        both(b"Bearer " + KEY, OTHER),
        both(b"Bearer " + KEY, KEY, KEY),
        both(b"Bearer " + KEY, b"x"),
        both(b"Basic dXNlcjpwYXNz", KEY),
        both(b"Bearer", KEY),
        both(KEY, KEY),
        [*authorization(b"Bearer " + KEY, b"Bearer " + KEY), (b"x-api-key", KEY)],
    ],
)
def test_two_opinions_on_who_calls_are_none(headers: Headers) -> None:
    """A proxy in front may have judged, or limited, the other one."""
    door = Door()
    with pytest.raises(InvalidKey):
        door.call(headers)
    assert not door.admission.asked


def test_a_key_in_the_url_is_not_seen() -> None:
    door = Door()
    text = KEY.decode()
    with pytest.raises(MissingCredentials):
        door.call([], query_string=b"api_key=" + KEY, path=f"/v1/models/{text}")
    assert not door.admission.asked


@pytest.mark.parametrize(
    "headers",
    [
        authorization(b"Bearer " + KEY, b"Bearer " + KEY),
        authorization(b"Bearer " + KEY, b"Basic abc"),
        authorization(b"Bearer " + KEY + b", Bearer " + KEY),
        authorization(b"Bearer " + KEY + b" " + KEY),
        authorization(b"Bearer " + KEY[:-1]),
        authorization(b"Bearer " + KEY + b"0"),
        authorization(b"Bearer " + KEY.lower()),
        authorization(b"Bearer " + KEY + b"\n"),
        authorization(b"Bearer sk-" + KEY),
    ],
)
def test_what_can_be_no_key_of_ours_costs_no_query(headers: Headers) -> None:
    door = Door()
    with pytest.raises(InvalidKey):
        door.call(headers)
    assert not door.admission.asked


@pytest.mark.parametrize("token", [b"x" * 8_000_000, KEY * 100_000, b"sk-kp-" + b"0" * 8_000_000])
def test_a_token_of_megabytes_is_refused_at_once(token: bytes) -> None:
    headers = authorization(b"Bearer " + token)

    def refuse() -> None:
        with pytest.raises(InvalidKey):
            bearer_token(headers)

    assert takes(refuse, at_most=0.2)


def test_a_good_key_is_let_in_in_flight_and_seen_by_the_meter() -> None:
    door = Door()
    door.call(authorization(b"Bearer " + KEY))
    (scope,) = door.let_in
    call: Call = scope["keyportal.call"]
    assert (call.digest, call.verdict) == (keystring.digest(KEY), VERDICT)
    assert door.in_flight == 1
    assert len(door.flight) == 0
    assert list(door.meter._uses) == [VERDICT.secret_id]


def test_a_refused_key_is_neither_let_in_nor_seen() -> None:
    door = Door(verdict=None)
    with pytest.raises(InvalidKey):
        door.call(authorization(b"Bearer " + KEY))
    assert door.admission.asked == [keystring.digest(KEY)]
    assert not door.let_in
    assert not door.meter._uses


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/public/small", "/v1/key"])
def test_what_is_no_call_is_noted_with_its_address_alone(path: str) -> None:
    door = Door()
    for _ in range(2):
        door.call(authorization(b"Bearer " + KEY), path=path)
    assert door.meter._lookups == {(VERDICT.team_slug, VERDICT.public_id, "192.0.2.7")}
    assert not door.meter._records


def test_a_call_costs_no_such_note() -> None:
    door = Door()
    door.call(authorization(b"Bearer " + KEY), path="/v1/chat/completions")
    assert not door.meter._lookups
    assert len(door.meter._records) == 1


def test_a_key_from_where_it_may_not_be_used_is_noted_as_refused() -> None:
    door = Door()
    door.admission.refusal = AddressNotAllowed("192.0.2.7")
    with pytest.raises(AddressNotAllowed):
        door.call(authorization(b"Bearer " + KEY))
    assert door.meter._refused == {keystring.digest(KEY): 1}
    assert door.meter._refused_ids == {keystring.digest(KEY): keystring.public_id_of(KEY)}
    assert not door.meter._uses
