"""Rate limits, by management key and by address."""

from typing import Any

import pytest

from keyportal.api.framework import throttling
from keyportal.keys import keystring
from keyportal.teams.models import User
from keyportal.usage.models import Window
from tests.support.api_client import ApiClient, NewApiClient, assert_problem
from tests.support.clock import ensure_time_left


def test_requests_per_minute_are_limited(
    new_api_client: NewApiClient, ada: User, settings: Any
) -> None:
    settings.API_REQUESTS_PER_MINUTE = 3
    program, other = new_api_client(ada), new_api_client(ada, "other")
    ensure_time_left(8)
    assert [program.get("self").status_code for _ in range(3)] == [200] * 3
    response = program.get("self")
    assert_problem(response, 429, "too-many-requests")
    assert 1 <= int(response["Retry-After"]) <= 60
    assert other.get("self").status_code == 200


def test_throttled_request_changes_nothing(
    new_api_client: NewApiClient, ada: User, settings: Any
) -> None:
    settings.API_REQUESTS_PER_MINUTE = 1
    program = new_api_client(ada)
    ensure_time_left(8)
    assert program.post("keys", {"name": "one"}).status_code == 201
    assert_problem(program.post("keys", {"name": "two"}), 429, "too-many-requests")
    assert Window.objects.get(subject__startswith="management:").requests == 1


def test_invalid_keys_are_counted_by_address(
    monkeypatch: pytest.MonkeyPatch, new_api_client: NewApiClient, ada: User
) -> None:
    monkeypatch.setattr(throttling, "FAILURES_PER_MINUTE", 2)
    bad = [ApiClient(keystring.generate(prefix="mk-kp-").text) for _ in range(3)]
    ensure_time_left(8)
    assert [one.get("self").status_code for one in bad] == [401, 401, 429]
    assert_problem(bad[0].get("self"), 429, "too-many-requests")
    # A neighbour behind the same address keeps no good key from its work.
    assert new_api_client(ada).get("self").status_code == 200


def test_count_is_shared_by_workers_and_ends_with_the_minute(db: None) -> None:
    ensure_time_left(8)
    assert [throttling.count_request("x", 2) == 0 for _ in range(4)] == [True, True, False, False]
    assert Window.objects.get(subject="x").requests == 2
    assert throttling.count_request("y", 1) == 0


@pytest.mark.parametrize(
    ("address", "subject"),
    [
        ("192.0.2.1", "stranger:192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "stranger:2001:db8:1:2::"),
        ("2001:db8:1:2::9", "stranger:2001:db8:1:2::"),
        ("fe80::1%eth0", "stranger:fe80::"),
        ("", "stranger:"),
        (None, "stranger:"),
    ],
)
def test_ipv6_addresses_are_counted_by_network(address: str | None, subject: str) -> None:
    assert throttling.address_subject(address) == subject
    assert len(subject) <= (Window._meta.get_field("subject").max_length or 0)
