"""The access log: one line for a request, with what an operator looks for and no secret."""

import io
import json
import logging
import threading
from collections.abc import Callable

import pytest

from keyportal.gateway.metrics import access_log
from keyportal.gateway.metrics.access_log import AccessLog
from keyportal.gateway.metrics.ended_requests import EndedRequest
from keyportal.keys.models import ApiKey
from keyportal.server.logging import JSONFormatter, RedactingFormatter
from keyportal.teams.models import User
from tests.support.server import Server, wait_until

OK = EndedRequest(
    *("req_1", "/chat/completions", 200, 1.84),
    model="public/one",
    team="acme",
    public_id="AbCd1234",
    upstream="gpu-1",
    first_byte_seconds=0.2,
    prompt_tokens=310,
    completion_tokens=122,
)
REFUSED = EndedRequest("req_2", "/messages", 401, 0.01, "invalid_api_key")


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the root logger's only handler writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    return stream


def lines(stream: io.StringIO, share: float, *requests: EndedRequest) -> list[str]:
    log = AccessLog(share)
    for request in requests:
        log(request)
    log.close()
    return stream.getvalue().splitlines()


def test_a_line_says_what_is_known(stream: io.StringIO) -> None:
    assert lines(stream, 1, OK, REFUSED) == [
        (
            "INFO keyportal.access: 200 /chat/completions request_id=req_1 team=acme key=AbCd1234 "
            "model=public/one upstream=gpu-1 first_byte_ms=200 duration_ms=1840 prompt_tokens=310 "
            "completion_tokens=122"
        ),
        "INFO keyportal.access: 401 /messages request_id=req_2 code=invalid_api_key duration_ms=10",
    ]


def test_fields_in_json(stream: io.StringIO) -> None:
    logging.getLogger().handlers[0].setFormatter(JSONFormatter())
    line = json.loads(lines(stream, 1, OK)[0])
    assert (line["status"], line["team"], line["duration_ms"]) == (200, "acme", 1840)
    assert line["logger"] == "keyportal.access"


@pytest.mark.parametrize("is_json", [False, True])
def test_a_key_that_was_sent_as_the_request_id_is_redacted(
    stream: io.StringIO, is_json: bool
) -> None:
    if is_json:
        logging.getLogger().handlers[0].setFormatter(JSONFormatter())
    key_string = "sk-kp-" + "A" * 60
    (line,) = lines(stream, 1, OK._replace(request_id=key_string))
    assert key_string not in line


def test_a_sample_has_all_failures(stream: io.StringIO) -> None:
    served = [OK] * 2000
    written = lines(stream, 0.1, *served, REFUSED, REFUSED._replace(status=502))
    assert sum("200" in line.split()[2] for line in written) in range(100, 350)
    assert [line.split()[2] for line in written if " 200 " not in line] == ["401", "502"]


def test_a_slow_reader_of_the_log_delays_nothing_and_fills_no_memory(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(access_log, "MAX_WAITING", 3)
    is_reading = threading.Event()
    monkeypatch.setattr(logging.getLogger().handlers[0], "acquire", is_reading.wait)
    monkeypatch.setattr(logging.getLogger().handlers[0], "release", lambda: None)
    log = AccessLog(1)
    for _ in range(100):
        log(OK)
    is_reading.set()
    wait_until(log._queue.empty)
    log(OK)
    log.close()
    written = stream.getvalue()
    assert 4 <= written.count("keyportal.access:") <= 5
    assert "lines of the access log were left out." in written


@pytest.mark.gateway
@pytest.mark.any_database
def test_requests_to_a_running_server(
    own_server: Callable[..., Server],
    alice: User,
    issue: Callable[..., tuple[ApiKey, str]],
    serve_model: Callable[..., str],
) -> None:
    key, text = issue(alice)
    model = serve_model("normal", "one")
    server = own_server(
        KEYPORTAL_ACCESS_LOG="on", KEYPORTAL_LOG_FORMAT="json", KEYPORTAL_LOG_LEVEL="ERROR"
    )
    ids = [
        reply.headers["x-request-id"]
        for reply in (
            server.chat(text, model),
            server.chat(text, "made-up"),
            server.chat(None, model),
            server.request("GET", "/auth/verify", key=text),
        )
    ]
    wait_until(lambda: ids[-1] in server.log)
    found = [json.loads(line) for line in server.log.splitlines() if "keyportal.access" in line]
    by_id = {line["request_id"]: line for line in found}
    served, unknown, without_key, verified = (by_id[id_] for id_ in ids)
    assert (served["status"], served["model"], served["upstream"]) == (200, model, "fake-one")
    assert (served["key"], served["team"]) == (key.public_id, key.team.slug)
    assert served["completion_tokens"] > 0
    assert (unknown["code"], "model" in unknown) == ("model_not_found", False)
    assert (without_key["status"], "key" in without_key) == (401, False)
    assert (verified["endpoint"], verified["key"]) == ("/auth/verify", key.public_id)
    assert not any(secret in server.log for secret in (text, "Hello, model!", "made-up"))
