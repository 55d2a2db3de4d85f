"""The top level of a JSON body: its fields within limits, while their values stay raw."""

from collections.abc import Iterable

import msgspec

from keyportal.gateway.errors import BadRequest

MAX_FIELDS = 256
# A body up to this size has at most some ten thousand fields, which need 2 MB for 3 ms.
_SMALL_BYTES = 64 * 1024

# All fields that the gateway reads or refuses, at the top level or in `stream_options`.
READ_FIELDS = frozenset(
    {
        "background",
        "extra_body",
        "fallbacks",
        "include_usage",
        "model",
        "models",
        "previous_response_id",
    }
    | {"request_id", "store", "stream", "stream_options"}
)

_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Name(str):
    """A field's name. For this type msgspec calls the decoder's `dec_hook`."""

    __slots__ = ()


def decode_fields(text: str | bytes | bytearray) -> dict[str, msgspec.Raw]:
    """The fields of a JSON object.

    Raises `BadRequest` for too many fields, a foreign spelling of one that the gateway reads, or
    further models; and what msgspec raises: `DecodeError`, or `RecursionError` for deep nesting.
    """
    fields = _decode(text)
    if "models" in fields or "fallbacks" in fields:
        # Attack: OpenRouter and LiteLLM call the models in these lists if the first one fails, and
        # the key's permissions were not checked for them.
        raise BadRequest("`models` and `fallbacks` are not supported here: send one `model`.")
    if "extra_body" in fields:
        _check_extra_body(fields["extra_body"])
    return fields


def _check_extra_body(raw: msgspec.Raw) -> None:
    """Attack: LiteLLM replaces fields of the body by those in `extra_body`, `model` too."""
    try:
        names = READ_FIELDS.intersection(_decode(str(raw, "utf-8")))
    except msgspec.ValidationError:
        return  # No object, so nothing to merge.
    if names:
        raise BadRequest(f"`{min(names)}` can't be in `extra_body`: send it at the top level.")


def _decode(text: str | bytes | bytearray) -> dict[str, msgspec.Raw]:
    fields = _decoder.decode(text) if len(text) <= _SMALL_BYTES else _decode_large(text)
    if len(fields) > MAX_FIELDS:
        raise _too_many_fields()
    names = "".join(fields)
    if not (names.isascii() and names.islower()):
        refuse_foreign_spellings(fields)
    return fields


def _decode_large(text: str | bytes | bytearray) -> dict[str, msgspec.Raw]:
    """Stop at the first field too many.

    Attack: a body of 20 MiB has two million fields, whose objects need 350 MB and a second.
    """
    count = 0

    def create_name(_type: type, name: str) -> str:
        nonlocal count
        count += 1
        if count > MAX_FIELDS:
            raise _too_many_fields()
        return _Name(name)

    decoder = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=create_name)
    return {str(name): value for name, value in decoder.decode(text).items()}


def _too_many_fields() -> BadRequest:
    return BadRequest(f"The request body has more than {MAX_FIELDS} fields.")


def refuse_foreign_spellings(names: Iterable[str]) -> None:
    """Raise `BadRequest` for a name such as `Model`, which some servers read as `model`.

    Attack: `{"model": "allowed", "MODEL": "another"}`. Servers in Go ignore the case of names, by
    Unicode's folding: `stream` may begin with U+017F, a long s. Others compare in upper case, where
    U+0131, an i without a dot, is an `I`. Escapes need no care: msgspec has decoded them.
    """
    for name in names:
        folded = name.upper().casefold()
        if folded in READ_FIELDS and folded != name:
            raise BadRequest(f"A field's name is too similar to `{folded}`. Write it like this.")
