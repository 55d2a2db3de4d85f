"""The JSON of a call: what is refused, and that the upstream reads the model that was checked."""

import asyncio
import json
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyportal.gateway.errors import BadRequest, MissingModel
from keyportal.gateway.http_client.messages import StreamedBody
from keyportal.gateway.relay.json_body import MAX_OPTIONS_BYTES, CallRequest, parse_call
from keyportal.gateway.relay.json_fields import READ_FIELDS
from keyportal.gateway.relay.stored_body import MemoryBody, whole
from keyportal.http.turns import Turns

pytestmark = pytest.mark.any_database
LARGE = b" " * 65_536  # Behind a body, it makes it a large one.


def sent_to(model: str, call: CallRequest) -> bytes:
    """The body for an upstream that calls this model."""
    body = call.body_for(model)
    assert isinstance(body, bytes)
    return body


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
        b'\xef\xbb\xbf\xef\xbb\xbf{"model": "a"}',
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
def test_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    for size in (b"", LARGE):
        with pytest.raises(BadRequest) as caught:
            parse_call(body + size)
        assert type(caught.value) is BadRequest


def test_byte_order_mark_is_skipped() -> None:
    call = parse_call(b'\xef\xbb\xbf{"model": "a", "x": 1}')
    assert call.model == "a"
    assert sent_to("b", call) == b'{"model":"b","x":1}'


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"model": null}',
        b'{"model": 1}',
        b'{"model": true}',
        b'{"model": ["a"]}',
        b'{"model": {"a": "b"}}',
        b'{"x": {"model": "a"}}',
    ],
)
def test_body_without_a_model_is_refused(body: bytes) -> None:
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
def test_upstream_gets_only_the_model_that_was_admitted(body: bytes) -> None:
    call = parse_call(body)
    assert call.model == "dear"
    sent = json.loads(sent_to("upstream/name", call), object_pairs_hook=list)
    assert [value for name, value in sent if name == "model"] == ["upstream/name"]


def test_repeated_fields_are_sent_once() -> None:
    sent = sent_to("b", parse_call(b'{"model": "a", "n": 1, "n": 2, "\\u006e": 3}'))
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
def test_nested_values_are_unchanged(value: bytes) -> None:
    sent = sent_to("b", parse_call(b'{"x": ' + value + b' , "model": "a"}'))
    assert sent == b'{"x":' + value + b',"model":"b"}'


def test_model_of_any_text_is_encoded_correctly() -> None:
    name = 'a"b\\c\n😀'
    assert json.loads(sent_to(name, parse_call(b'{"model": "x"}'))) == {"model": name}
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


spaces = st.text(" \t\r\n", max_size=2)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A JSON object with a model; names repeat, and spaces and escapes are as they may be."""
    names = text.filter(lambda name: name.upper().casefold() not in READ_FIELDS)
    fields = draw(st.lists(st.tuples(names, values), max_size=5))
    fields += draw(st.lists(st.sampled_from(fields), max_size=2)) if fields else []
    fields.insert(draw(st.integers(0, len(fields))), ("model", draw(text)))
    is_ascii, indent = draw(st.booleans()), draw(st.sampled_from([None, 1, "\t"]))

    def encoded(value: object) -> str:
        return draw(spaces) + json.dumps(value, ensure_ascii=is_ascii, indent=indent) + draw(spaces)

    members = ",".join(f"{encoded(name)}:{encoded(value)}" for name, value in fields)
    return draw(spaces) + "{" + members + "}" + draw(spaces)


@given(documents(), text, st.sampled_from([b"", LARGE]))
def test_any_json_is_unchanged_except_for_the_model(
    document: str, target: str, size: bytes
) -> None:
    sent = json.loads(document)
    call = parse_call(document.encode() + size)
    assert call.model == sent["model"]
    assert json.loads(sent_to(target, call)) == sent | {"model": target}


@given(documents(), text, st.sampled_from([0, 5000, 70_000]), st.booleans())
def test_stored_body_is_unchanged_except_for_the_model(
    document: str, target: str, size: int, is_on_disk: bool
) -> None:
    """Sent twice, because a server may fail."""

    async def run() -> None:
        large = json.dumps(json.loads(document) | {"xx": "y" * size, "xxx": 1})
        call = parse_call(bytearray(large.encode()) + LARGE).stored(Turns(), 7)
        assert isinstance(call.rest, MemoryBody)
        if is_on_disk:
            call = call._replace(rest=await call.rest.to_disk())
        assert (call.model, call.rest_tokens) == (json.loads(document)["model"], 7)
        for _ in range(2):
            body = call.body_for(target)
            assert isinstance(body, StreamedBody)
            sent = await whole(body)
            assert len(sent) == body.length
            assert json.loads(sent) == json.loads(large) | {"model": target}
        call.close()

    asyncio.run(run())


def test_fields_that_the_gateway_reads_are_read_in_a_stored_body_too() -> None:
    fields = {
        "messages": "x" * 100_000,
        "extra_body": {"top_k": 1},
        "stream": True,
        "previous_response_id": "resp_1",
        "store": False,
        "model": "m",
    }
    call = parse_call(json.dumps(fields).encode()).stored(Turns(), 0)
    assert call.previous_response_id == "resp_1"
    assert not call.is_stored
    assert call.request_usage()
    assert not {"messages", "extra_body"} & call.fields.keys()
    asked, original = (
        asyncio.run(whole(c.body_for("m"))) for c in (call, call.without_usage_request())
    )
    assert json.loads(original) == fields
    assert json.loads(asked) == fields | {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("name", ["model", "previous_response_id", "stream"])
def test_large_field_that_the_gateway_reads_is_refused(name: str) -> None:
    """It would stay in memory, and not in the file."""
    fields = {"model": "m", name: "x" * 100_000}
    with pytest.raises(BadRequest, match=f"`{name}` is larger than 4096 bytes"):
        parse_call(json.dumps(fields).encode()).stored(Turns(), 0)


def test_stored_body_is_not_copied() -> None:
    """Nor is its text: one emoji in it would need four times the memory."""
    size = 4 * 1024 * 1024
    body = bytearray(json.dumps({"model": "m", "x": "\U0001f600" + "y" * size}).encode())
    tracemalloc.start()
    try:
        call = parse_call(body).stored(Turns(), 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1024 * 1024
    assert call.rest is not None


@pytest.mark.parametrize("offset", range(5))
def test_characters_across_two_pieces_are_utf8(offset: int) -> None:
    """A large body is checked piece by piece."""
    for character, is_valid in (("\U0001f600".encode(), True), (b"\xf0\x9f\x98", False)):
        body = b'{"model": "a", "x": "'.ljust(65_534 - offset, b"y") + character + b'"}' + LARGE
        if is_valid:
            assert parse_call(body).model == "a"
        else:
            with pytest.raises(BadRequest, match=f"byte {65_534 - offset}"):
                parse_call(body)


@given(st.binary() | st.builds(lambda raw: b'{"model": "a", "x": ' + raw + b"}", st.binary()))
def test_random_bytes_raise_only_bad_request(body: bytes) -> None:
    try:
        call = parse_call(body)
    except BadRequest:
        return
    assert json.loads(sent_to("b", call))["model"] == "b"


def test_deep_nesting_is_accepted() -> None:
    depth = sys.getrecursionlimit() // 4
    nested = b"[" * depth + b"]" * depth
    assert nested in sent_to("b", parse_call(b'{"model": "a", "x": ' + nested + b"}"))


@pytest.mark.parametrize("stream", [b"1", b'"true"', b"[]", b"0"])
def test_ambiguous_stream_value_is_refused(stream: bytes) -> None:
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
def test_usage_of_a_stream_is_requested_and_hidden(body: bytes, is_hidden: bool) -> None:
    assert parse_call(body).request_usage() is is_hidden


@pytest.mark.parametrize("value", [b"true", b" true", b"1", b'"true"', b"{}"])
def test_background_responses_are_refused(value: bytes) -> None:
    """Attack: only the first answer, which comes before the work, would be counted."""
    call = parse_call(b'{"model": "m", "background":' + value + b"}")
    with pytest.raises(BadRequest, match="without `background`"):
        call.check_stored_answer()


@pytest.mark.parametrize("rest", [b"", b', "background": false', b', "background": null'])
def test_other_responses_are_accepted(rest: bytes) -> None:
    parse_call(b'{"model": "m"' + rest + b"}").check_stored_answer()


@pytest.mark.parametrize(
    "name", ["Include_Usage", "INCLUDE_USAGE", "\\u0049nclude_usage", "\u0131nclude_usage"]
)
def test_other_spelling_in_stream_options_is_refused(name: str) -> None:
    """Attack: the stream's usage is switched off unseen."""
    options = f'{{"include_usage": true, "{name}": false}}'
    body = f'{{"model": "m", "stream": true, "stream_options": {options}}}'
    with pytest.raises(BadRequest, match="too similar to `include_usage`"):
        parse_call(body.encode()).request_usage()


def test_large_stream_options_are_refused_before_decoding() -> None:
    """Attack: two million names in it."""
    head = b'{"model": "m", "stream": true, "stream_options": {"x":"'
    room = MAX_OPTIONS_BYTES - len(b'{"x":""}')
    assert parse_call(head + b"y" * room + b'"}}').request_usage()
    with pytest.raises(BadRequest, match="larger than 4096 bytes"):
        parse_call(head + b"y" * (room + 1) + b'"}}').request_usage()


def test_caller_chooses_no_id_for_the_answer() -> None:
    """Attack: vLLM and SGLang take it, so it could be the id of another team's answer."""
    with pytest.raises(BadRequest, match="`request_id`"):
        parse_call(b'{"model": "m", "request_id": "resp_theirs"}').check_stored_answer()


@pytest.mark.parametrize(
    ("value", "id_"), [(b'"resp_1"', "resp_1"), (b"null", ""), (b'""', ""), (b'"a/\\u00e9"', "a/é")]
)
def test_previous_response_id_is_read(value: bytes, id_: str) -> None:
    call = parse_call(b'{"model": "m", "previous_response_id": ' + value + b"}")
    assert call.previous_response_id == id_
    assert parse_call(b'{"model": "m"}').previous_response_id == ""


@pytest.mark.parametrize("value", [b"1", b'["resp_1"]', b"true", b'{"id": "resp_1"}'])
def test_previous_response_id_of_another_type_is_refused(value: bytes) -> None:
    """Attack: a server that takes it would get an id that was not checked."""
    call = parse_call(b'{"model": "m", "previous_response_id": ' + value + b"}")
    with pytest.raises(BadRequest, match="must be a string"):
        _ = call.previous_response_id


@pytest.mark.parametrize(
    ("rest", "is_stored"),
    [
        (b"", True),
        (b', "store": true', True),
        (b', "store": null', True),
        (b', "store": false', False),
    ],
)
def test_answers_are_stored_unless_the_caller_forbids_it(rest: bytes, is_stored: bool) -> None:
    assert parse_call(b'{"model": "m"' + rest + b"}").is_stored is is_stored
