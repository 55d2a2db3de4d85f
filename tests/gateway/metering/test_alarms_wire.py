"""Alarms, from requests to the audit and the mail."""

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import NamedTuple

import pytest
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.models import ServedModel
from keyportal.gateway.metering.alarms import SUBJECTS
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.notifications.models import QueuedMail
from keyportal.teams.models import User
from keyportal.usage.models import Alarm
from tests.support.mail_server import MailServer
from tests.support.server import CHAT, Server, chat_body, wait_until

pytestmark = pytest.mark.gateway
OwnServer = Callable[..., Server]
Issue = Callable[..., tuple[ApiKey, str]]
NETWORKS, REFUSALS = 4, 10


class Caller:
    """Comes to each door in turn, from an address that a proxy tells."""

    def __init__(self, server: Server, model: str) -> None:
        self._server = server
        self._asks = itertools.cycle(
            [
                ("POST", CHAT, chat_body(model)),
                ("GET", "/v1/models", None),
                ("GET", "/auth/verify", None),
            ]
        )
        self.networks = (f"198.51.{number}.7" for number in range(256))

    def ask(self, key: str, address: str = "192.0.2.7") -> int:
        """The status. Each request has its own connection, so any worker may get it."""
        method, path, body = next(self._asks)
        headers = {"X-Forwarded-For": address}
        return self._server.request(method, path, key=key, body=body, headers=headers).status


def come_from_many_networks(caller: Caller, _key: ApiKey, text: str) -> Iterator[int]:
    for address in itertools.islice(caller.networks, NETWORKS):
        yield caller.ask(text, address)


def guess(caller: Caller, key: ApiKey, _text: str) -> Iterator[int]:
    for _ in range(REFUSALS):
        yield caller.ask(keystring.generate(key.public_id).text)


def use_after_deletion(caller: Caller, key: ApiKey, text: str) -> Iterator[int]:
    for there in ApiKey.objects.filter(pk=key.pk):
        there.revoke(actor=there.owner)
    for _ in range(3):
        yield caller.ask(text)


class Suspicious(NamedTuple):
    act: Callable[[Caller, ApiKey, str], Iterator[int]]
    status: int
    action: Action
    noted: str
    """In the audit, after the key's name."""
    told: str
    """In the mail."""


SUSPICIOUS = [
    Suspicious(
        come_from_many_networks,
        200,
        Action.KEY_MANY_NETWORKS,
        ": 4 networks",
        "was used from 4 networks within ten minutes.",
    ),
    Suspicious(
        guess,
        401,
        Action.KEY_REFUSED_OFTEN,
        ": 10 requests",
        "10 requests with the public id of the API key",
    ),
    Suspicious(
        use_after_deletion,
        401,
        Action.KEY_USED_AFTER_DELETION,
        "",
        "that is no longer valid was used again, and refused.",
    ),
]


def test_each_alarm_is_audited_and_mailed_once_an_hour(
    own_server: OwnServer,
    alice: User,
    bob: User,
    issue: Issue,
    model: ServedModel,
    mail_server: MailServer,
) -> None:
    server = own_server(
        workers=2,
        KEYPORTAL_TRUSTED_PROXIES="127.0.0.1",
        KEYPORTAL_ALARM_NETWORKS=str(NETWORKS),
        KEYPORTAL_ALARM_REFUSALS=str(REFUSALS),
        EMAIL_URL=mail_server.url,
    )
    caller = Caller(server, model.name)
    keys = [issue(bob, one.action) for one in SUSPICIOUS]
    named = [str(key) for key, _ in keys]
    rows = AuditEvent.objects.filter(action__in=[one.action for one in SUSPICIOUS])

    def act() -> None:
        for case, (key, text) in zip(SUSPICIOUS, keys, strict=True):
            assert set(case.act(caller, key, text)) == {case.status}, case.action

    act()
    letters = {str(letter["Subject"]): letter for letter in mail_server.wait_for(3)}
    assert rows.count() == 3
    for case, (key, _), name in zip(SUSPICIOUS, keys, named, strict=True):
        row = rows.get(action=case.action)
        assert (row.target, row.actor) == (name + case.noted, "")
        assert (row.public_id, row.team_slug) == (key.public_id, key.team.slug)
        number = case.noted.removeprefix(": ").split(" ")[0]
        subject = SUBJECTS[case.action].format(key=key.name, number=number)
        letter = letters[f"[Keyportal] {subject}"]
        assert letter["To"] == "bob@example.com"
        assert case.told in " ".join(letter.get_content().split())

    act()
    Alarm.objects.update(raised_at=timezone.now() - timedelta(hours=1, seconds=1))
    act()
    wait_until(lambda: len(mail_server.received) >= 6)
    # A worker checks what it has collected before it ends.
    assert server.stop() == 0
    assert not QueuedMail.objects.exists()
    assert mail_server.recipients == ["bob@example.com"] * 6
    assert {rows.filter(action=case.action).count() for case in SUSPICIOUS} == {2}
    for _, text in keys:
        assert text[14:46] not in mail_server.text + server.log
