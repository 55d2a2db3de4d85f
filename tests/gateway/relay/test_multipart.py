"""A form that can be read in one way only is written again; others are refused."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyportal.gateway.errors import BadRequest, GatewayError, MissingModel, UnsupportedMediaType
from keyportal.gateway.relay.multipart import MAX_PARTS, Form
from tests.support.cases import case

pytestmark = pytest.mark.any_database

BOUNDARY = b"callers"
TYPE = b"multipart/form-data; boundary=" + BOUNDARY


def part(name: bytes, content: bytes, *more: bytes) -> bytes:
    head = [b'Content-Disposition: form-data; name="' + name + b'"', *more]
    return b"--callers\r\n" + b"\r\n".join(head) + b"\r\n\r\n" + content + b"\r\n"


def file(content: bytes, disposition: bytes = b'; filename="a.mp3"', *more: bytes) -> bytes:
    head = [b'Content-Disposition: form-data; name="file"' + disposition, *more]
    return b"--callers\r\n" + b"\r\n".join(head) + b"\r\n\r\n" + content + b"\r\n"


MODEL = part(b"model", b"u-1/test")
END = b"--callers--\r\n"


def read(body: bytes, size: int = 1_000_000, content_type: bytes = TYPE) -> tuple[Form, bytes]:
    """The form, and its output with our boundary replaced by a readable one."""
    form = Form(content_type)
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    passed = b"".join(map(form.feed, pieces))
    form.check_complete()
    return form, passed.replace(form._boundary, b"OURS")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1_000_000])
def test_everything_but_the_model_passes_unchanged(size: int) -> None:
    content = bytes(range(256)) * 3 + b"\r\n--callersx\r\n--caller\r\n\r\n--"
    body = file(content, b'; filename="a.mp3"', b"Content-Type: audio/mpeg") + MODEL
    body += part(b"timestamp_granularities[]", b"word") + END
    form, passed = read(body, size)
    assert form.model == "u-1/test"
    assert passed == (
        b'--OURS\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n'
        b"Content-Type: audio/mpeg\r\n\r\n" + content + b"\r\n"
        b'--OURS\r\nContent-Disposition: form-data; name="timestamp_granularities[]"\r\n\r\n'
        b"word\r\n"
    )


def test_boundary_is_random_each_time() -> None:
    one, two = Form(TYPE), Form(TYPE)
    assert one.content_type != two.content_type
    assert re.fullmatch(rb"multipart/form-data; boundary=[0-9a-f]{32}", one.content_type)
    boundary = one.content_type.partition(b"=")[2]
    assert one.model_part("tiny") == (
        b"--" + boundary + b'\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
    )
    assert one.closing_boundary == b"--" + boundary + b"--\r\n"


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_model_inside_a_file_is_content(size: int) -> None:
    """Another boundary inside a part is content too."""
    inner = b'--other\r\nContent-Disposition: form-data; name="model"\r\n\r\nsecret\r\n--other--'
    form, passed = read(MODEL + file(inner) + END, size)
    assert form.model == "u-1/test"
    assert inner in passed


def test_bytes_around_the_form_are_dropped() -> None:
    form, passed = read(b"\r\n" + MODEL + file(b"x") + END + part(b"model", b"another") + END)
    assert form.model == "u-1/test"
    assert b"another" not in passed


DISPOSITION = b"Content-Disposition: form-data; name="
REFUSED: dict[str, bytes] = {
    "two models": MODEL + MODEL + END,
    "two models, a file between": MODEL + file(b"x") + part(b"model", b"u-1/other") + END,
    "a model that is a file": b"--callers\r\n" + DISPOSITION
    + b'"model"; filename="x"\r\n\r\nu-1/test\r\n' + END,
    "a model that is an empty file": b"--callers\r\n" + DISPOSITION
    + b'"model"; filename=""\r\n\r\nu-1/test\r\n' + END,
    "model[]": MODEL + part(b"model[]", b"x") + END,
    "model[a]": MODEL + part(b"model[a]", b"x") + END,
    "model.a": MODEL + part(b"model.a", b"x") + END,
    "MODEL": MODEL + part(b"MODEL", b"x") + END,
    "Stream": MODEL + part(b"stream", b"false") + part(b"Stream", b"true") + END,
    "stream[]": MODEL + part(b"stream[]", b"true") + END,
    "stream.a": MODEL + part(b"stream.a", b"true") + END,
    "a folded stream": MODEL + part("\u017ftream".encode(), b"true") + END,
    "a model of many bytes": part(b"model", b"x" * 1000) + END,
    "a model in UTF-16": part(b"model", "u-1/test".encode("utf-16")) + END,
    "an encoded model": part(b"model", b"dS0xL3Rlc3Q=", b"Content-Transfer-Encoding: base64") + END,
    "an encoded file": MODEL + file(b"eA==", b"", b"Content-Transfer-Encoding: base64") + END,
    "no name": MODEL + b"--callers\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
    "an empty name": MODEL + part(b"", b"x") + END,
    "a name with a space": MODEL + part(b"model ", b"x") + END,
    "a name with a NUL": MODEL + part(b"model\x00", b"x") + END,
    "a name with a quote": MODEL + part(b'a\\"; x=\\"', b"x") + END,
    "a name in another script": MODEL + part("m\u043edel".encode(), b"x") + END,
    "a long name": MODEL + part(b"x" * 65, b"x") + END,
    "no disposition": MODEL + b"--callers\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END,
    "an attachment": MODEL + b'--callers\r\nContent-Disposition: attachment; name="a"\r\n\r\nx\r\n'
    + END,
    "two dispositions": MODEL + part(b"a", b"x", b'content-disposition: form-data; name="model"')
    + END,
    "a header twice": MODEL + file(b"x", b"", b"Content-Type: a/b", b"content-type: c/d") + END,
    "a form within": MODEL + file(b"x", b'; filename="a"', b"Content-Type: multipart/mixed") + END,
    "a media type in no alphabet": MODEL
    + file(b"x", b'; filename="a"', b"Content-Type: a/\xc3\xa9") + END,
    "many headers": MODEL + part(b"a", b"x", *(b"X-%d: y" % n for n in range(50))) + END,
    "a giant header": MODEL + part(b"a", b"x", b"X: " + b"y" * 100_000) + END,
    "a giant header's name": MODEL + part(b"a", b"x", b"Y" * 100_000 + b": y") + END,
    "a folded header": MODEL + part(b"a", b"x", b"X: a\r\n b") + END,
    "a header without a colon": MODEL + part(b"a", b"x", b"model") + END,
    "line feeds alone": (MODEL + END).replace(b"\r\n", b"\n"),
    "another boundary": MODEL.replace(b"callers", b"other") + END,
    "many parts": MODEL + part(b"a", b"x") * MAX_PARTS + END,
    "no last boundary": MODEL + file(b"x"),
    "half a last boundary": MODEL + file(b"x") + b"--callers-",
    "half a head": MODEL + b"--callers\r\nContent-Disp",
    "nothing": b"",
    "JSON": b'{"model": "u-1/test"}',
}  # fmt: skip


def test_ambiguous_form_is_refused() -> None:
    for what, body in REFUSED.items():
        for size in (1, 1_000_000):
            with case(what, size), pytest.raises(BadRequest):
                read(body, size)


@pytest.mark.parametrize("body", [END, file(b"x") + END, part(b"model", b"") + END])
def test_form_without_a_model_is_refused(body: bytes) -> None:
    with pytest.raises(MissingModel):
        read(body)


@pytest.mark.parametrize(
    "content_type",
    [b"application/json", b"multipart/mixed; boundary=callers", b"", b"multipart/form-datax"],
)
def test_invalid_form_is_refused(content_type: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="multipart/form-data"):
        Form(content_type)


@pytest.mark.parametrize(
    "boundary", [b"", b"; boundary=", b'; boundary=""', b"; boundary=" + b"x" * 300]
)
def test_form_without_a_valid_boundary_is_refused(boundary: bytes) -> None:
    with pytest.raises(BadRequest):
        Form(b"multipart/form-data" + boundary)


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        (b'"a.mp3"', b"a.mp3"),
        (b"a.mp3", b"a.mp3"),
        (b'""', b""),
        ('"größe.mp3"'.encode(), "größe.mp3".encode()),
        (b'"../../etc/passwd"', b".._.._etc_passwd"),
        (b'"a\\\\"', b"a_"),
        (b'"a\\"; name=\\"model"', b"a_; name=_model"),
        (b'"a\x00\x7f\tb"', b"a___b"),
        (b'"' + b"x" * 999 + b'"', b"x" * 255),
    ],
)
def test_file_name_is_sanitized(sent: bytes, passed: bytes) -> None:
    _, out = read(MODEL + file(b"x", b"; filename=" + sent) + END)
    (found,) = re.findall(rb'name="file"; filename="([^"]*)"\r\n', out)
    assert found == passed


def test_other_part_headers_are_dropped() -> None:
    odd = b"; filename=\"a\"; filename*=UTF-8''b; size=7"
    _, out = read(MODEL + file(b"x", odd, b"X-Other: 1", b"Content-Length: 999") + END)
    assert b"X-Other" not in out
    assert b"Content-Length" not in out
    assert b"filename*" not in out
    assert b"size" not in out


names = st.sampled_from([b"model", b"file", b"a", b"model[]", b"Model", b"x y", b"", b"language"])
contents = st.binary(max_size=40) | st.sampled_from([b"u-1/test", b"\r\n--callers", MODEL, END])
junk = st.sampled_from([b"", b"", b"", b"\r\n", b"--callers", b"--", b"\r", b"\x00", END])
parts = st.builds(lambda name, content, noise: part(name, content) + noise, names, contents, junk)


@given(st.lists(parts, max_size=4), st.integers(1, 50), junk)
def test_any_form_is_parsed_the_same_in_any_chunks(
    some: list[bytes], size: int, noise: bytes
) -> None:
    body = b"".join(some) + noise + END

    def outcome(read_it: Callable[[], tuple[Form, bytes]]) -> object:
        try:
            form, passed = read_it()
        except GatewayError as error:
            return type(error)
        assert b'name="model"' not in passed or b"--callers" in passed
        return form.model, passed

    assert outcome(lambda: read(body, size)) == outcome(lambda: read(body))
