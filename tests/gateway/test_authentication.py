"""Authentication: how the key string is read, and that only a valid checksum costs a query."""

import asyncio
import time
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
    CredentialsDiffer,
    GatewayError,
    InvalidKey,
    MissingCredentials,
    PlaceholderKey,
    Unauthorized,
)
from keyportal.gateway.metering.meter import Meter
from keyportal.gateway.metering.writer import Writer
from keyportal.http.types import Headers, Receive, Scope, Send
from keyportal.keys import keystring
from tests.support.asgi import Client, scope

pytestmark = pytest.mark.any_database

KEY = keystring.generate().text.encode()
OTHER = keystring.generate().text.encode()
VERDICT = Verdict(7, "7QmX2aPd", 1)


class FakeAdmission:
    """Gives every request the same verdict, and records the digests."""

    def __init__(self, verdict: Verdict | None = VERDICT) -> None:
        self.verdict = verdict
        self.digests: list[bytes] = []
        self.error: GatewayError | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def admit(
        self, digest: bytes, address: str | None, *, is_counted: bool
    ) -> Admitted | None:
        self.digests.append(digest)
        if self.error is not None:
            raise self.error
        return self.verdict and Admitted(self.verdict)


class Gate:
    """The middleware around an application that records its scopes."""

    def __init__(self, verdict: Verdict | None = VERDICT) -> None:
        self.admission = FakeAdmission(verdict)
        self.active_calls = ActiveCalls()
        self.meter = Meter("worker", Writer())
        self.scopes: list[Scope] = []
        self.active_count = 0

    def call(self, headers: Headers, **more: object) -> None:
        admission = cast("Admission", self.admission)
        middleware = BearerAuthMiddleware(self._app, admission, self.active_calls, self.meter)
        client = Client()
        request = scope(headers=headers, **{"keyportal.request_id": "req_1", **more})  # type: ignore[arg-type]
        asyncio.run(middleware(request, client.receive, client.send))

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.active_count = len(self.active_calls)
        self.scopes.append(scope)


def authorization(*values: bytes) -> Headers:
    return [(b"authorization", value) for value in values]


def has_valid_checksum(token: bytes) -> bool:
    return keystring.checksum(token[:-6]) == token[-6:]


def with_byte_changed(key: bytes, position: int, byte: int) -> bytes:
    return key[:position] + bytes([byte]) + key[position + 1 :]


keys = st.builds(keystring.generate).map(lambda key: key.text.encode())
near_keys = st.builds(with_byte_changed, keys, st.integers(0, 51), st.integers(0, 255))
tokens = keys | near_keys | st.binary(max_size=80) | st.just(b"")
schemes = st.sampled_from([b"Bearer", b"bearer", b"BEARER", b"Basic", b"Token", b""])
spaces = st.sampled_from([b" ", b"  ", b"\t", b"", b",", b"\xa0"])
values = st.builds(lambda *parts: b"".join(parts), schemes, spaces, tokens, spaces) | tokens
HEADERS = [b"authorization", b"x-api-key", b"api-key"]
names = st.sampled_from(HEADERS * 2 + [b"cookie", b"openai-api-key"])


@given(st.lists(st.tuples(names, values), max_size=3))
def test_no_headers_raise_another_error_or_cost_a_query_without_a_valid_checksum(
    headers: Headers,
) -> None:
    gate = Gate()
    try:
        gate.call(headers)
    except Unauthorized:
        assert not gate.admission.digests
        assert not gate.scopes
    else:
        (token,) = {
            value.split(b" ", 1)[1].strip(b" ") if name == b"authorization" else value.strip(b" ")
            for name, value in headers
            if name in HEADERS and value.strip(b" ").lower() not in {b"", b"bearer"}
        }
        assert has_valid_checksum(token)
        assert gate.admission.digests == [keystring.digest(token)]


@given(st.binary(max_size=200) | near_keys)
def test_no_token_costs_a_query_without_a_valid_checksum(token: bytes) -> None:
    gate = Gate()
    try:
        gate.call(authorization(b"Bearer " + token))
    except GatewayError:
        assert not gate.admission.digests
    else:
        assert has_valid_checksum(token.strip(b" "))


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"bEaReR"])
def test_scheme_is_case_insensitive(scheme: bytes) -> None:
    assert bearer_token(authorization(scheme + b" " + KEY)) == KEY


@pytest.mark.parametrize(
    "value", [b"Bearer   " + KEY, b"Bearer " + KEY + b"  "], ids=["before", "after"]
)
def test_spaces_around_the_token_are_ignored(value: bytes) -> None:
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
        [(b"api-key", b""), (b"x-api-key", b" "), *authorization(b"Bearer ")],
        [(b"anthropic-api-key", KEY)],
        [(b"openai-api-key", KEY)],
        [(b"cookie", b"authorization=Bearer " + KEY)],
        [(b"proxy-authorization", b"Bearer " + KEY)],
    ],
)
def test_key_anywhere_else_is_no_credential(headers: Headers) -> None:
    gate = Gate()
    with pytest.raises(MissingCredentials):
        gate.call(headers)
    assert not gate.admission.digests


def both(bearer: bytes, *keys: bytes) -> Headers:
    return [(b"authorization", bearer), *((b"x-api-key", key) for key in keys)]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", KEY)],
        [(b"x-api-key", b" " + KEY + b" ")],
        both(b"Bearer " + KEY, KEY),
        both(b"Bearer " + KEY, b""),
        both(b"Bearer " + KEY, b"", b""),
        both(b"Bearer ", KEY),
        both(b"bearer", KEY),
        both(b"", KEY),
        both(b"", b"", KEY),
        [*both(b"Bearer " + KEY, KEY)][::-1],
        [(b"api-key", KEY)],
        [(b"api-key", KEY), *both(b"Bearer " + KEY, KEY)],
        [(b"api-key", b""), *both(b"Bearer ", KEY)],
    ],
)
def test_every_header_for_a_key_is_read_at_every_path(headers: Headers) -> None:
    for path in ("/v1/messages", "/v1/chat/completions", "/v1/models"):
        gate = Gate()
        gate.call(headers, path=path)
        assert gate.admission.digests == [keystring.digest(KEY)], path


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        (both(b"Bearer " + KEY, OTHER), "authorization and x-api-key"),
        (both(b"Bearer " + KEY, b"x"), "authorization and x-api-key"),
        (both(b"Bearer {API_KEY}", KEY), "authorization and x-api-key"),
        (both(b"Basic dXNlcjpwYXNz", KEY), "authorization and x-api-key"),
        (both(KEY, KEY), "authorization and x-api-key"),
        ([(b"api-key", KEY), (b"x-api-key", OTHER)], "api-key and x-api-key"),
        ([(b"api-key", KEY), *authorization(b"Bearer " + OTHER)], "api-key and authorization"),
        (
            [(b"api-key", KEY), *both(b"Bearer " + KEY, OTHER)],
            "api-key and authorization and x-api-key",
        ),
    ],
)
def test_credentials_that_differ_are_refused_and_named(headers: Headers, names: str) -> None:
    """Attack: a proxy in front has checked or limited the other one."""
    for order in (headers, headers[::-1]):
        gate = Gate()
        with pytest.raises(
            CredentialsDiffer, match=f"^The headers {names} have different"
        ) as caught:
            gate.call(order)
        assert KEY.decode() not in str(caught.value)
        assert not gate.admission.digests


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", KEY), (b"x-api-key", KEY)],
        [(b"x-api-key", KEY), (b"x-api-key", OTHER)],
        [(b"api-key", KEY), (b"api-key", KEY)],
        both(b"Bearer " + KEY, KEY, KEY),
        [*authorization(b"Bearer " + KEY, b"Bearer " + KEY), (b"x-api-key", KEY)],
        authorization(b"Bearer " + KEY, b"Bearer " + KEY),
        authorization(b"Bearer " + KEY, b"Basic abc"),
    ],
)
def test_header_that_is_sent_twice_is_refused(headers: Headers) -> None:
    """Attack: a proxy in front has checked the first, and we would use the last."""
    gate = Gate()
    with pytest.raises(CredentialsDiffer):
        gate.call(headers)
    assert not gate.admission.digests


@pytest.mark.parametrize(
    "text",
    [b"{API_KEY}", b"{{ API_KEY }}", b"${OPENAI_API_KEY}", b"$ANTHROPIC_AUTH_TOKEN", b"%API_KEY%",
     b"<your key>", b"sk-...", b"sk-kp-...", b"...", b"YOUR_API_KEY", b"your-key-here"],
)  # fmt: skip
def test_placeholder_has_a_message_of_its_own(text: bytes) -> None:
    for headers in (authorization(b"Bearer " + text), [(b"x-api-key", text)], [(b"api-key", text)]):
        gate = Gate()
        with pytest.raises(PlaceholderKey, match="placeholder"):
            gate.call(headers)
        assert not gate.admission.digests


@pytest.mark.parametrize(
    "text", [b"{" * 100, b"{" + KEY * 2, b"sk-kp-" + b"0" * 46, b"yours", b"x"]
)
def test_what_could_be_a_key_is_no_placeholder(text: bytes) -> None:
    """Attack: the message would tell that a part of a guessed key is wrong."""
    with pytest.raises(InvalidKey):
        bearer_token(authorization(b"Bearer " + text))


def test_key_in_the_url_is_ignored() -> None:
    gate = Gate()
    text = KEY.decode()
    with pytest.raises(MissingCredentials):
        gate.call([], query_string=b"api_key=" + KEY, path=f"/v1/models/{text}")
    assert not gate.admission.digests


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"Bearer " + KEY)],
        [(b"x-api-key", KEY + b", " + OTHER)],
        [(b"api-key", b"Bearer " + KEY)],
        authorization(b"Bearer " + KEY + b", Bearer " + KEY),
        authorization(b"Bearer " + KEY + b" " + KEY),
        authorization(b"Bearer " + KEY[:-1]),
        authorization(b"Bearer " + KEY + b"0"),
        authorization(b"Bearer " + KEY.lower()),
        authorization(b"Bearer " + KEY + b"\n"),
        authorization(b"Bearer sk-" + KEY),
    ],
)
def test_malformed_key_costs_no_query(headers: Headers) -> None:
    gate = Gate()
    with pytest.raises(InvalidKey):
        gate.call(headers)
    assert not gate.admission.digests


@pytest.mark.parametrize("token", [b"x" * 8_000_000, KEY * 100_000, b"sk-kp-" + b"0" * 8_000_000])
def test_token_of_megabytes_is_refused_quickly(token: bytes) -> None:
    headers = authorization(b"Bearer " + token)

    began = time.thread_time()
    with pytest.raises(InvalidKey):
        bearer_token(headers)
    assert (
        time.thread_time() - began < 10
    )  # Milliseconds. In steps that grow with its square it would take days.


def test_valid_key_is_admitted_active_and_metered() -> None:
    gate = Gate()
    gate.call(authorization(b"Bearer " + KEY))
    (scope,) = gate.scopes
    call: Call = scope["keyportal.call"]
    assert (call.digest, call.verdict) == (keystring.digest(KEY), VERDICT)
    assert gate.active_count == 1
    assert len(gate.active_calls) == 0
    assert list(gate.meter._uses) == [VERDICT.secret_id]


def test_refused_key_is_neither_admitted_nor_metered() -> None:
    gate = Gate(verdict=None)
    with pytest.raises(InvalidKey):
        gate.call(authorization(b"Bearer " + KEY))
    assert gate.admission.digests == [keystring.digest(KEY)]
    assert not gate.scopes
    assert not gate.meter._uses


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/public/small", "/v1/key"])
def test_request_that_is_no_call_records_only_its_address(path: str) -> None:
    gate = Gate()
    for _ in range(2):
        gate.call(authorization(b"Bearer " + KEY), path=path)
    assert gate.meter._lookups == {(VERDICT.team_slug, VERDICT.public_id, "192.0.2.7")}
    assert not gate.meter._records


def test_call_records_no_extra_address() -> None:
    gate = Gate()
    gate.call(authorization(b"Bearer " + KEY), path="/v1/chat/completions")
    assert not gate.meter._lookups
    assert len(gate.meter._records) == 1


def test_key_from_a_network_that_is_not_allowed_is_recorded_as_refused() -> None:
    gate = Gate()
    gate.admission.error = AddressNotAllowed("192.0.2.7")
    with pytest.raises(AddressNotAllowed):
        gate.call(authorization(b"Bearer " + KEY))
    assert gate.meter._refused == {keystring.digest(KEY): 1}
    assert gate.meter._refused_ids == {keystring.digest(KEY): keystring.public_id_of(KEY)}
    assert not gate.meter._uses
