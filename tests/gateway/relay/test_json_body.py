"""The body of a call: its limits, and that the upstream reads the model that was checked."""

import asyncio
import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from keyportal.gateway.errors import (
    BadRequest,
    BodyTooLarge,
    MissingModel,
    SlowBody,
    UnsupportedMediaType,
)
from keyportal.gateway.relay import json_body as module
from keyportal.gateway.relay.json_body import parse_call, read_body
from keyportal.http.types import Headers
from tests.support.asgi import Client, scope

JSON = (b"content-type", b"application/json")


def read(client: Client, *headers: tuple[bytes, bytes]) -> bytes:
    request = scope(method="POST", headers=list(headers or [JSON]))
    return asyncio.run(read_body(request, client.receive))


@pytest.mark.parametrize(
    "media_type",
    [
        b"application/json",
        b"application/json; charset=utf-8",
        b"application/json;charset=UTF-8",
        b"Application/JSON",
        b" application/json ",
    ],
)
def test_json_is_taken(media_type: bytes) -> None:
    assert read(Client(b"{}"), (b"content-type", media_type)) == b"{}"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"accept", b"application/json")],
        [(b"content-type", b"")],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"multipart/form-data; boundary=application/json")],
        [(b"content-type", b"application/jsonp")],
        [JSON, (b"content-encoding", b"gzip")],
        [JSON, (b"content-encoding", b"identity, gzip")],
    ],
)
def test_anything_else_is_not_taken_and_not_read(headers: Headers) -> None:
    client = Client(b"{}")
    with pytest.raises(UnsupportedMediaType):
        read(client, *headers)
    assert client.parts == [b"{}"]


def test_identity_is_no_encoding() -> None:
    assert read(Client(b"{}"), JSON, (b"content-encoding", b"identity")) == b"{}"


def test_parts_are_put_together() -> None:
    assert read(Client(b'{"a":', b"", b" 1", b"}")) == b'{"a": 1}'


def test_a_body_that_says_it_is_too_large_is_not_read(settings: Settings) -> None:
    settings.MAX_BODY_BYTES = 10
    client = Client(b"x" * 11)
    with pytest.raises(BodyTooLarge, match="10 bytes"):
        read(client, JSON, (b"content-length", b"11"))
    assert client.parts == [b"x" * 11]


def test_a_body_that_grows_too_large_is_read_no_further(settings: Settings) -> None:
    settings.MAX_BODY_BYTES = 10
    client = Client(b"12345", b"67890", b"1", b"never read")
    with pytest.raises(BodyTooLarge):
        read(client)
    assert client.parts == [b"never read"]


def test_a_body_of_just_the_limit_is_taken(settings: Settings) -> None:
    settings.MAX_BODY_BYTES = 10
    assert read(Client(b"12345", b"67890"), JSON, (b"content-length", b"10")) == b"1234567890"


def test_a_client_that_hangs_up_ends_the_reading() -> None:
    with pytest.raises(SlowBody):
        read(Client(b'{"a":', None))


def test_a_body_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_SECONDS", 0.05)
    with pytest.raises(SlowBody):
        read(Client(*[b"x"] * 100, pause=0.01))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"model"',
        b"12",
        b"{",
        b'{"model": "a"',
        b'{"model": "a",}',
        b'{"model": "a"} {}',
        b"{'model': 'a'}",
        b'{"model": "a", "x": NaN}',
        b'{"model": "a", "x": 01}',
        b'{"model": "a", "x": tru}',
        b'{"model": "a", 1: 2}',
        b'\xef\xbb\xbf{"model": "a"}',
        '{"model": "a"}'.encode("utf-16"),
        b"model=a",
        b'{"model": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "a", "x": ' + b'{"y":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b"[" * 100_000,
        b'{"model": "a", "x": "\xff"}',
        b'{"model": "a", "x": ["\xc3("]}',
        b'{"model": "a", "\xff": 1}',
        b'{"model": "\xff"}',
        b'{"model": "a", "x": "\xed\xa0\x80"}',
        b'{"model": "a", "x": "\\ud800"}',
        b'{"model": "a", "x": "\\udc00\\ud800"}',
        b'{"model": "a", "\\ud800": 1}',
        b'{"model": "\\ud800"}',
        b'{"model": "a", "x": "\\x"}',
        b'{"model": "a", "x": "\x01"}',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_call(body)
    assert type(caught.value) is BadRequest


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"Model": "a"}',
        b'{"model": null}',
        b'{"model": 1}',
        b'{"model": true}',
        b'{"model": ["a"]}',
        b'{"model": {"a": "b"}}',
        b'{"x": {"model": "a"}}',
    ],
)
def test_without_a_model_there_is_nothing_to_route(body: bytes) -> None:
    with pytest.raises(MissingModel):
        parse_call(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "cheap", "model": "dear"}',
        b'{"mod\\u0065l": "cheap", "model": "dear"}',
        b'{"model": "cheap", "\\u006dodel": "dear"}',
        b'{"model": "cheap", "x": 1, "\\u006d\\u006f\\u0064\\u0065\\u006c": "dear"}',
        b'{"model": ["cheap"], "model": "dear"}',
    ],
)
def test_the_upstream_reads_the_model_that_was_judged_and_no_other(body: bytes) -> None:
    call = parse_call(body)
    assert call.model == "dear"
    sent = json.loads(call.body_for("upstream/name"), object_pairs_hook=list)
    assert [value for name, value in sent if name == "model"] == ["upstream/name"]


def test_other_names_that_stand_twice_stand_once_too() -> None:
    sent = parse_call(b'{"model": "a", "n": 1, "n": 2, "\\u006e": 3}').body_for("b")
    assert json.loads(sent, object_pairs_hook=list) == [("model", "b"), ("n", 3)]


@pytest.mark.parametrize(
    "value",
    [
        b"123456789012345678901234567890",
        b"1.0",
        b"1e400",
        b"-0.0",
        b"0.1000000000000000055511151231257827",
        b'"\\u00e9\\/\\ud83d\\ude00"',
        '"é😀\u2028"'.encode(),
        b'{ "b" : [ 1 ,2 ], "a":{}, "a" : null }',
        b"[ ]",
    ],
)
def test_nested_bytes_are_as_they_came(value: bytes) -> None:
    sent = parse_call(b'{"x": ' + value + b' , "model": "a"}').body_for("b")
    assert sent == b'{"x":' + value + b',"model":"b"}'


def test_a_model_of_any_text_is_sent_as_text() -> None:
    name = 'a"b\\c\n😀'
    assert json.loads(parse_call(b'{"model": "x"}').body_for(name)) == {"model": name}
    assert parse_call(json.dumps({"model": name}).encode()).model == name


text = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


@given(st.dictionaries(text, values), text, text, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_any_json_arrives_as_it_left_but_for_the_model(
    fields: dict[str, Any], model: str, target: str, is_ascii: bool, indent: int | str | None
) -> None:
    body = json.dumps(fields | {"model": model}, ensure_ascii=is_ascii, indent=indent).encode()
    call = parse_call(body)
    assert call.model == model
    assert json.loads(call.body_for(target)) == fields | {"model": target}


@given(st.binary() | st.builds(lambda raw: b'{"model": "a", "x": ' + raw + b"}", st.binary()))
def test_no_bytes_raise_anything_but_a_refusal(body: bytes) -> None:
    try:
        call = parse_call(body)
    except BadRequest:
        return
    assert json.loads(call.body_for("b"))["model"] == "b"


def test_depth_that_python_can_take_is_taken() -> None:
    depth = sys.getrecursionlimit() // 4
    nested = b"[" * depth + b"]" * depth
    assert nested in parse_call(b'{"model": "a", "x": ' + nested + b"}").body_for("b")


@pytest.mark.parametrize("stream", [b"1", b'"true"', b"[]", b"0"])
def test_what_only_some_servers_take_for_a_stream_is_refused(stream: bytes) -> None:
    """Otherwise it would be streamed without usage."""
    with pytest.raises(BadRequest):
        parse_call(b'{"model": "m", "stream": ' + stream + b"}").request_usage()


@pytest.mark.parametrize(
    ("body", "is_hidden"),
    [
        (b'{"model": "m"}', False),
        (b'{"model": "m", "stream": null}', False),
        (b'{"model": "m", "stream": false}', False),
        (b'{"model": "m", "stream": true}', True),
        (b'{"model": "m", "stream": true, "stream_options": null}', True),
        (b'{"model": "m", "stream": true, "stream_options": {"include_usage": false}}', True),
        (b'{"model": "m", "stream": true, "stream_options": {"include_usage": true}}', False),
        (b'{"model": "m", "stream": true, "stream_options": 7}', False),
    ],
)
def test_a_stream_is_asked_what_it_used(body: bytes, is_hidden: bool) -> None:
    assert parse_call(body).request_usage() is is_hidden


@pytest.mark.parametrize("value", [b"true", b" true", b"1", b'"true"', b"{}"])
def test_background_answers_are_refused(value: bytes) -> None:
    """Attack: only the first answer, which comes before the work, would be counted."""
    call = parse_call(b'{"model": "m", "background":' + value + b"}")
    with pytest.raises(BadRequest, match="without `background`"):
        call.require_foreground()


@pytest.mark.parametrize("rest", [b"", b', "background": false', b', "background": null'])
def test_other_answers_are_not(rest: bytes) -> None:
    parse_call(b'{"model": "m"' + rest + b"}").require_foreground()
