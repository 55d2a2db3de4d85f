"""How many changes a person may make in the portal."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User

pytestmark = pytest.mark.any_database

KEYS = "/teams/u-8105f7322477/keys/"
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def change(settings: Settings, bob: User, issue: Issue) -> Callable[..., Any]:
    """Bob disables or enables a key of his, within a small limit."""
    settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | {"portal_write": "3/m/user"}
    key, _ = issue(bob)
    turns = iter(["disable", "enable"] * 10)

    def change_key(client: Client, **headers: str) -> Any:
        return client.post(f"{KEYS}{key.public_id}/{next(turns)}/", headers=headers)

    return change_key


def test_a_person_makes_a_limited_number_of_changes(
    client: Client, bob: User, change: Callable[..., Any]
) -> None:
    """Attack: a member fills the audit with changes, in several sessions and from everywhere."""
    client.force_login(bob)
    assert [change(client).status_code for _ in range(3)] == [302] * 3
    elsewhere = Client(REMOTE_ADDR="192.0.2.7")
    elsewhere.force_login(bob)
    written = AuditEvent.objects.count()
    answer = change(elsewhere)
    assert (answer.status_code, answer["Retry-After"]) == (429, "60")
    assert "You sent too many changes" in answer.content.decode()
    assert "Keyportal" in answer.content.decode()
    fragment = change(client, **{"HX-Request": "true"})
    assert fragment.status_code == 429
    assert fragment["Content-Type"].startswith("text/plain")
    assert AuditEvent.objects.count() == written
    assert client.get(KEYS).status_code == 200


def test_the_changes_of_one_person_do_not_count_for_another(
    client: Client, bob: User, ada: User, change: Callable[..., Any]
) -> None:
    client.force_login(bob)
    for _ in range(4):
        change(client)
    other = Client()
    other.force_login(ada)
    assert change(other).status_code == 302
