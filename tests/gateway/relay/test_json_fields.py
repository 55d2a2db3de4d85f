"""The names of a body's fields: how they are spelled, and how many there may be."""

import json
import tracemalloc
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyportal.gateway.errors import BadRequest
from keyportal.gateway.relay.json_fields import MAX_FIELDS, READ_FIELDS, decode_fields

pytestmark = pytest.mark.any_database
MEBIBYTE = 1024 * 1024
REFUSED_FIELDS = {"models", "fallbacks"}
LARGE = " " * 65_536


@pytest.mark.parametrize("size", ["", LARGE])
@pytest.mark.parametrize(
    "name",
    [
        "MODEL",
        "Model",
        "modeL",
        "\\u004dodel",
        "Stream",
        "STREAM",
        "\u017ftream",
        "\\u017ftream",
        "\ufb06ream",
        "Stream_Options",
        "stream_option\u017f",
        "stream_opt\u0131ons",
        "bac\u212aground",
        "Background",
        "Previous_Response_Id",
    ],
)
def test_other_spelling_of_a_field_is_refused(name: str, size: str) -> None:
    """Attack: `{"model": "allowed", "MODEL": "another"}`, and a server that ignores case."""
    with pytest.raises(BadRequest, match="too similar to"):
        decode_fields(f'{{"model": "mine", "{name}": "other"}}' + size)
    with pytest.raises(BadRequest, match="too similar to"):
        decode_fields(f'{{"{name}": "other"}}' + size)


def test_exact_names_and_unknown_names_are_accepted() -> None:
    names = [
        *sorted(READ_FIELDS - REFUSED_FIELDS),
        "\\u006dodel",
        "model_list",
        "mode",
        "Temperature",
        "X-Ärger",
        "",
        "_",
    ]
    body = "{" + ",".join(f'"{name}": 1' for name in names) + "}"
    assert decode_fields(body).keys() == json.loads(body).keys()


@pytest.mark.parametrize("name", ["models", "fallbacks", "\\u006dodels"])
def test_further_models_are_refused(name: str) -> None:
    """Attack: OpenRouter and LiteLLM call them when the first model fails."""
    with pytest.raises(BadRequest, match="send one `model`"):
        decode_fields(f'{{"model": "mine", "{name}": ["other"]}}')


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"x": 1, "MODEL": "other"},
        {"\u017ftream": True},
        {"stream": True},
        {"models": ["other"]},
        {"extra_body": {"model": "other"}},
        {"background": True},
        {str(number): 1 for number in range(MAX_FIELDS + 1)},
    ],
)
def test_no_field_is_replaced_from_extra_body(fields: dict[str, object]) -> None:
    """Attack: LiteLLM merges `extra_body` into the body that it sends on."""
    for size in ("", LARGE):
        body = json.dumps({"model": "mine", "extra_body": fields}) + size
        with pytest.raises(BadRequest, match=r"extra_body|too similar|more than 256"):
            decode_fields(body)


@pytest.mark.parametrize(
    "value", [None, 7, "model", [{"model": 1}], {}, {"x": {"model": 1}, "é": 2}]
)
def test_other_fields_in_extra_body_are_accepted(value: object) -> None:
    body = {"model": "mine", "extra_body": value}
    fields = decode_fields(json.dumps(body, ensure_ascii=False))
    assert msgspec.json.decode(fields["extra_body"]) == value


def folded_as_go_does(name: str) -> str:
    """By Unicode's simple folding, of which these are the only two beyond ASCII."""
    return name.replace("\u017f", "s").replace("\u212a", "k").lower()


letters = st.sampled_from(sorted("".join(READ_FIELDS) + "\u017f\u212aMODELSTRBACKGUIPVNX"))


@given(st.text(letters) | st.sampled_from(sorted(READ_FIELDS)).map(str.title))
def test_field_is_read_as_servers_read_it(name: str) -> None:
    is_foreign = name not in READ_FIELDS and folded_as_go_does(name) in READ_FIELDS
    try:
        fields = decode_fields(json.dumps({name: 1}, ensure_ascii=False))
    except BadRequest:
        assert is_foreign or name in REFUSED_FIELDS
    else:
        assert not is_foreign
        assert [*fields] == [name]


@pytest.mark.parametrize("size", ["", LARGE])
def test_maximum_number_of_fields(size: str) -> None:
    names = [f"x{number}" for number in range(MAX_FIELDS)]
    fields = decode_fields(json.dumps(dict.fromkeys(names, 1)) + size)
    assert [*fields] == names
    assert {type(name) for name in fields} == {str}
    with pytest.raises(BadRequest, match="more than 256 fields"):
        decode_fields(json.dumps(dict.fromkeys([*names, "y"], 1)) + size)


def members(count: int) -> str:
    return ",".join(f'"{number:x}":1' for number in range(count))


@pytest.mark.parametrize(
    "make_body",
    [
        lambda: "{" + members(300_000) + "}",
        lambda: '{"a":' + "[" * 100 + "]" * 100 + "," + members(300_000),
        lambda: '{"model":"m","model":' + '1,"":' * 600_000 + "1}",
    ],
    ids=["tiny keys", "after nested values, and no end", "one name again and again"],
)
def test_body_of_many_fields_uses_little_memory(make_body: Callable[[], str]) -> None:
    """Attack: 20 MB of tiny keys, of which three calls need 1.2 GB."""
    body = make_body()
    assert len(body) > 2 * MEBIBYTE
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="more than 256 fields"):
            decode_fields(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEBIBYTE


def test_nested_fields_are_not_counted() -> None:
    messages = [{"role": "user", "content": str(number)} for number in range(50_000)]
    body = json.dumps({"model": "m", "messages": messages, "x": {str(n): n for n in range(999)}})
    fields = decode_fields(body)
    assert [*fields] == ["model", "messages", "x"]
    assert msgspec.json.decode(fields["messages"]) == messages
