"""Anomalies in what the meter collects raise alarms and send mail."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from django.db import DatabaseError
from django.db.models import F
from django.utils import timezone
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.gateway.calls import Call
from keyportal.gateway.metering import anomalies as module
from keyportal.gateway.metering import meter as metering
from keyportal.gateway.metering.meter import Meter
from keyportal.gateway.metering.retention import RetentionJob
from keyportal.gateway.metering.usage_sql import LastUse
from keyportal.gateway.metering.writer import Writer
from keyportal.http.addresses import site_network
from keyportal.keys import changes, keystring
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.notifications import emails
from keyportal.teams.models import Membership, Team, User
from keyportal.usage.models import Alarm, NetworkUse, Sighting, UsageDay
from keyportal.usage.models import Call as CallRow
from tests.support.calls import make_call, make_verdict
from tests.support.mail_server import MailServer

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "meter"])
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def workers(db: None, settings: Settings) -> Iterator[list[Meter]]:
    """Two workers that share only the database, as on two hosts."""
    settings.ALARM_NETWORKS, settings.ALARM_REFUSALS = 4, 10
    meters = [Meter(name, Writer()) for name in ("one", "two")]
    yield meters
    for meter in meters:
        meter._writer.close()
        meter._writer._thread.shutdown()  # Waits: an open connection would keep the database.


def call_from(meter: Meter, key: ApiKey, *addresses: str) -> None:
    verdict = make_verdict(key)

    async def make(address: str) -> Call:
        return make_call(verdict, client=(address, 1))

    for address in addresses:
        over = asyncio.run(make(address))
        over.status, over.endpoint = 200, "/chat/completions"
        meter.record_call(over)
    asyncio.run(meter.flush())


def list_models_from(meter: Meter, key: ApiKey, *addresses: str) -> None:
    verdict = make_verdict(key)

    async def make(address: str) -> Call:
        return make_call(verdict, client=(address, 1))

    for address in addresses:
        meter.record_lookup(asyncio.run(make(address)))
    asyncio.run(meter.flush())


def refuse(meter: Meter, text: str, number: int = 1) -> None:
    for _ in range(number):
        meter.record_refusal(keystring.digest(text.encode()), keystring.public_id_of(text.encode()))
    asyncio.run(meter.flush())


def alarm_targets(action: Action) -> list[str]:
    return [*AuditEvent.objects.filter(action=action).values_list("target", flat=True)]


def let_an_hour_pass() -> None:
    Alarm.objects.update(raised_at=timezone.now() - timedelta(hours=1, seconds=1))


def addresses(number: int, first: int = 0) -> list[str]:
    return [f"198.51.{first + place}.7" for place in range(number)]


def test_use_from_many_networks_over_all_workers_raises_alarm(
    workers: list[Meter], alice: User, bob: User, issue: Issue, mail_server: MailServer
) -> None:
    key, text = issue(bob, "nightly")
    call_from(workers[0], key, *addresses(3))
    call_from(workers[1], key, *addresses(3))  # The same three.
    assert alarm_targets(Action.KEY_MANY_NETWORKS) == []
    call_from(workers[1], key, *addresses(1, first=9))
    assert alarm_targets(Action.KEY_MANY_NETWORKS) == [f"{key}: 4 networks"]
    row = AuditEvent.objects.get(action=Action.KEY_MANY_NETWORKS)
    assert (row.public_id, row.team_slug) == (key.public_id, key.team.slug)
    (letter,) = mail_server.wait_for(1)
    assert letter["To"] == "bob@example.com"
    assert letter["Subject"] == f'[Keyportal] API key "{key.name}" was used from 4 networks'
    assert "from 4 networks within ten minutes" in letter.get_content()
    assert text[14:30] not in mail_server.text


def test_listing_models_counts_like_calls(
    workers: list[Meter], alice: User, bob: User, issue: Issue, mail_server: MailServer
) -> None:
    """A stranger verifies a key by a list of models, without a call."""
    key, _ = issue(bob)
    list_models_from(workers[0], key, *addresses(2))
    call_from(workers[1], key, *addresses(2, first=1))
    assert alarm_targets(Action.KEY_MANY_NETWORKS) == []
    list_models_from(workers[1], key, *addresses(1, first=9))
    assert alarm_targets(Action.KEY_MANY_NETWORKS) == [f"{key}: 4 networks"]
    mail_server.wait_for(1)
    assert not UsageDay.objects.exclude(requests=2).exists()


def test_verifications_without_rows_count_too(
    workers: list[Meter],
    bob: User,
    issue: Issue,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metering, "SLICE", 2)
    key, _ = issue(bob)
    for address in [*addresses(4), ""]:
        use = LastUse(bytes(key.current_secret.digest), time.time(), address or None, b"")
        workers[0].record_verification(make_verdict(key), use, "/auth/verify", "", None, "req_1")
    asyncio.run(workers[0].flush())
    assert CallRow.objects.count() == 2
    assert alarm_targets(Action.KEY_MANY_NETWORKS) == [f"{key}: 4 networks"]
    mail_server.wait_for(1)


def test_lookup_is_stored_once_a_day_for_key_and_network(
    workers: list[Meter], bob: User, issue: Issue, settings: Settings
) -> None:
    settings.ALARM_NETWORKS = 0  # The Health page reads them nevertheless.
    key, other = issue(bob)[0], issue(bob, "b")[0]
    for meter in workers * 2:
        list_models_from(meter, key, "192.0.2.7", "192.0.2.8", "2001:db8::1", "")
    list_models_from(workers[0], other, "192.0.2.7")
    found = NetworkUse.objects.values_list("team_slug", "public_id", "network")
    assert sorted(found) == sorted(
        (key.team.slug, one.public_id, network)
        for one, network in (
            (key, "192.0.2.0/24"),
            (key, "2001:db8::/48"),
            (other, "192.0.2.0/24"),
        )
    )
    assert not Sighting.objects.exists()
    day = timedelta(days=1)
    for look in NetworkUse.objects.all():
        assert look.start <= look.first_used_at < look.start + day
    NetworkUse.objects.update(start=F("start") - day, first_used_at=F("first_used_at") - day)
    list_models_from(Meter("three", workers[0]._writer), key, "192.0.2.7")
    assert NetworkUse.objects.count() == 4


def test_more_lookups_than_one_transaction_are_all_written(
    workers: list[Meter], bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "SLICE", 2)
    list_models_from(workers[0], issue(bob)[0], *addresses(7))
    assert NetworkUse.objects.count() == 7
    assert not workers[0]._lookups


@pytest.mark.parametrize(
    "peers",
    [
        [f"192.0.2.{number}" for number in range(20)],
        [f"2001:db8:5:{number:x}::1" for number in range(20)],
        ["192.0.2.1", "198.51.100.1", "2001:db8::1"] * 20,
        ["fe80::1%eth0"] * 20,
    ],
)
def test_many_addresses_of_few_networks_raise_no_alarm(
    workers: list[Meter], bob: User, issue: Issue, peers: list[str]
) -> None:
    call_from(workers[0], issue(bob)[0], *peers)
    assert alarm_targets(Action.KEY_MANY_NETWORKS) == []


def test_networks_of_two_keys_are_not_added_up(
    workers: list[Meter], bob: User, issue: Issue
) -> None:
    call_from(workers[0], issue(bob)[0], *addresses(3))
    call_from(workers[0], issue(bob, "b")[0], *addresses(3, first=100))
    assert alarm_targets(Action.KEY_MANY_NETWORKS) == []


def test_old_networks_do_not_count(workers: list[Meter], bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    call_from(workers[0], key, *addresses(3))
    Sighting.objects.update(start=timezone.now() - timedelta(minutes=11))
    call_from(workers[1], key, *addresses(3, first=100))
    assert alarm_targets(Action.KEY_MANY_NETWORKS) == []


def test_worker_writes_a_network_once_per_interval(
    workers: list[Meter], bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "INTERVAL_SECONDS", 10**9
    )  # So that no interval ends during the test.
    key, _ = issue(bob)
    for _ in range(5):
        call_from(workers[0], key, *addresses(2))
    assert [*Sighting.objects.values_list("count", flat=True)] == [1, 1]


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("unix:", "unix:"),
    ],
)
def test_networks(address: str, network: str) -> None:
    assert site_network(address) == network


def test_many_wrong_secrets_over_all_workers_raise_alarm(
    workers: list[Meter], bob: User, issue: Issue, mail_server: MailServer
) -> None:
    key, _ = issue(bob)
    for number in range(10):
        assert alarm_targets(Action.KEY_REFUSED_OFTEN) == []
        refuse(workers[number % 2], keystring.generate(key.public_id).text)
    assert alarm_targets(Action.KEY_REFUSED_OFTEN) == [f"{key}: 10 requests"]
    (letter,) = mail_server.wait_for(1)
    assert letter["To"] == "bob@example.com"
    text_of_mail = " ".join(letter.get_content().split())
    assert "or they came from outside its allowed networks." in text_of_mail
    assert "None of these requests succeeded." in text_of_mail


def test_the_right_secret_of_a_disabled_key_counts_too(
    workers: list[Meter], bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    ApiKey.objects.update(disabled_at=timezone.now(), disabled_by="owner")
    refuse(workers[0], text, 10)
    assert alarm_targets(Action.KEY_REFUSED_OFTEN) == [f"{key}: 10 requests"]


def test_made_up_public_ids_are_not_stored(workers: list[Meter], bob: User, issue: Issue) -> None:
    """Attack: requests with made-up keys could fill the table and the audit of other teams."""
    issue(bob)
    for _ in range(20):
        refuse(workers[0], keystring.generate().text, 10)
    assert not Sighting.objects.exists()
    assert not Alarm.objects.exists()


@pytest.mark.any_database
def test_use_of_deleted_key_is_mailed_to_its_owner(
    workers: list[Meter], alice: User, ada: User, bob: User, issue: Issue, mail_server: MailServer
) -> None:
    key, text = issue(bob, "nightly")
    named = str(key)
    key.revoke(actor=ada)
    refuse(workers[0], text)
    assert alarm_targets(Action.KEY_USED_AFTER_DELETION) == [named]
    mail_server.wait_for(1)
    assert mail_server.recipients == ["bob@example.com"]
    assert (
        AuditEvent.objects.for_team(bob.memberships.get().team).for_key(named[-9:-1]).count() == 3
    )


@pytest.mark.any_database
def test_use_of_deleted_key_is_mailed_to_its_last_owner(
    workers: list[Meter], alice: User, ada: User, bob: User, issue: Issue, mail_server: MailServer
) -> None:
    key, first = issue(bob)
    second = rotate(key, GracePeriod.NOW, actor=bob).text
    changes.hand_over(key, ada, actor=alice)
    key.revoke(actor=alice)
    refuse(workers[0], first)
    refuse(workers[0], second)
    mail_server.wait_for(1)
    assert mail_server.recipients == ["ada@example.com"]


@pytest.mark.any_database
@pytest.mark.parametrize("how", ["left", "deactivated", "deleted"])
def test_use_of_deleted_key_without_owner_is_mailed_to_admins(
    workers: list[Meter],
    alice: User,
    ada: User,
    bob: User,
    issue: Issue,
    mail_server: MailServer,
    how: str,
) -> None:
    key, text = issue(bob)
    key.revoke(actor=bob)
    match how:
        case "left":
            bob.memberships.all().delete()
        case "deactivated":
            User.objects.filter(pk=bob.pk).update(is_active=False)
        case _:
            bob.delete()
    refuse(workers[0], text)
    mail_server.wait_for(2)
    assert sorted(mail_server.recipients) == ["ada@example.com", "alice@example.com"]


@pytest.mark.any_database
def test_use_of_deleted_key_is_mailed_to_renamed_owner_not_to_new_user_of_the_name(
    workers: list[Meter], team: Team, bob: User, issue: Issue, mail_server: MailServer
) -> None:
    key, text = issue(bob)
    key.revoke(actor=bob)
    User.objects.filter(pk=bob.pk).update(username="robert")
    heir = User.objects.create_user("bob", "heir@example.com")
    Membership.objects.create(team=team, user=heir)
    refuse(workers[0], text)
    mail_server.wait_for(1)
    assert mail_server.recipients == ["bob@example.com"]


@pytest.mark.any_database
def test_use_of_rotated_secret_is_mailed_to_owner(
    workers: list[Meter], alice: User, bob: User, issue: Issue, mail_server: MailServer
) -> None:
    key, text = issue(bob)
    rotate(key, GracePeriod.NOW, actor=bob)
    refuse(workers[0], text)
    assert alarm_targets(Action.KEY_USED_AFTER_DELETION) == [str(key)]
    mail_server.wait_for(1)
    assert mail_server.recipients == ["bob@example.com"]


def test_call_cut_off_by_deletion_is_no_use_after_deletion(
    workers: list[Meter], bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    key.revoke(actor=bob)
    workers[0]._cut_off[keystring.digest(text.encode())] += 1
    asyncio.run(workers[0].flush())
    assert alarm_targets(Action.KEY_USED_AFTER_DELETION) == []


@pytest.mark.parametrize("again", [0, 1])
def test_alarm_is_raised_once_an_hour_over_all_workers(
    workers: list[Meter], alice: User, bob: User, issue: Issue, mail_server: MailServer, again: int
) -> None:
    key, text = issue(bob)
    key.revoke(actor=bob)
    for meter in workers * 5:
        refuse(meter, text)
    mail_server.wait_for(1)
    let_an_hour_pass()
    refuse(workers[again], text)
    refuse(workers[0], text)
    mail_server.wait_for(2)
    assert len(alarm_targets(Action.KEY_USED_AFTER_DELETION)) == 2


def test_two_workers_raise_the_same_alarm_once(
    workers: list[Meter], alice: User, bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    key.revoke(actor=bob)

    async def both() -> None:
        await asyncio.gather(*(meter.flush() for meter in workers))

    for _ in range(5):
        for meter in workers:
            meter.record_refusal(keystring.digest(text.encode()), text[6:14])
        asyncio.run(both())
    assert len(alarm_targets(Action.KEY_USED_AFTER_DELETION)) == 1


@pytest.mark.postgresql  # SQLite has one writer at a time.
def test_two_concurrent_workers_count_each_others_networks(
    workers: list[Meter], bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each counts after it has committed its own rows."""
    key, _ = issue(bob)
    verdict, count, both_have_written = make_verdict(key), module._rows_for, Barrier(2)

    def count_together(cursor: Any, statement: str, *more: Any) -> Iterator[tuple[Any, ...]]:
        if statement == module._COUNT_NETWORKS:
            both_have_written.wait(60)
        return count(cursor, statement, *more)

    async def see_at_once() -> None:
        for meter, first in zip(workers, (0, 2), strict=True):
            for address in addresses(2, first):
                meter.record_lookup(make_call(verdict, client=(address, 1)))
        await asyncio.gather(*(meter.flush() for meter in workers))

    monkeypatch.setattr(module, "_rows_for", count_together)
    asyncio.run(see_at_once())
    assert alarm_targets(Action.KEY_MANY_NETWORKS) == [f"{key}: 4 networks"]


@pytest.mark.any_database
def test_kinds_of_alarms_are_separate(workers: list[Meter], bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    call_from(workers[0], key, *addresses(4))
    refuse(workers[0], keystring.generate(key.public_id).text, 10)
    assert (
        len(alarm_targets(Action.KEY_MANY_NETWORKS))
        == len(alarm_targets(Action.KEY_REFUSED_OFTEN))
        == 1
    )
    assert Alarm.objects.count() == 2


@pytest.mark.any_database
def test_alarms_can_be_turned_off(
    workers: list[Meter], bob: User, issue: Issue, settings: Settings
) -> None:
    settings.ALARM_NETWORKS = settings.ALARM_REFUSALS = 0
    key, _ = issue(bob)
    call_from(workers[0], key, *addresses(200))
    refuse(workers[0], keystring.generate(key.public_id).text, 200)
    assert not Sighting.objects.exists()
    assert not Alarm.objects.exists()


def test_mail_that_cannot_be_queued_leaves_no_alarm(
    workers: list[Meter],
    bob: User,
    issue: Issue,
    mail_server: MailServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An anomaly that goes on is found a second later."""

    def fail(*_: object, **__: object) -> None:
        raise DatabaseError

    key, _ = issue(bob)
    with monkeypatch.context() as patched:
        patched.setattr(emails, "send", fail)
        refuse(workers[0], keystring.generate(key.public_id).text, 10)
    assert not Alarm.objects.exists()
    assert alarm_targets(Action.KEY_REFUSED_OFTEN) == []
    refuse(workers[0], keystring.generate(key.public_id).text)
    assert alarm_targets(Action.KEY_REFUSED_OFTEN) == [f"{key}: 11 requests"]
    mail_server.wait_for(1)


def test_failed_detection_loses_no_usage(
    workers: list[Meter],
    bob: User,
    issue: Issue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    key, _ = issue(bob)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_many_networks", fail)
        call_from(workers[0], key, *addresses(4))
    assert UsageDay.objects.get().requests == 4
    assert "Anomalies were not checked: ZeroDivisionError" in caplog.text
    call_from(workers[0], key, *addresses(4))
    assert len(alarm_targets(Action.KEY_MANY_NETWORKS)) == 1
    assert UsageDay.objects.get().requests == 8


@pytest.mark.any_database
def test_deleted_team_gets_no_alarm(workers: list[Meter], bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    key.revoke(actor=bob)
    Team.objects.all().delete()
    refuse(workers[0], text)
    assert not Alarm.objects.exists()


def test_known_networks_cost_no_query(
    workers: list[Meter], bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual second: calls of known keys from known networks."""
    # So that no interval ends during the test.
    monkeypatch.setattr(module, "INTERVAL_SECONDS", 10**9)
    monkeypatch.setattr(module, "DAY_SECONDS", 10**9)
    key, _ = issue(bob)
    call_from(workers[0], key, "192.0.2.1")
    list_models_from(workers[0], key, "192.0.2.3")
    monkeypatch.setattr(module, "_many_networks", lambda *_: pytest.fail("It asked again."))
    call_from(workers[0], key, "192.0.2.2")
    list_models_from(workers[0], key, "192.0.2.4")
    assert Sighting.objects.get().count == NetworkUse.objects.count() == 1


def test_old_rows_are_deleted(
    workers: list[Meter], bob: User, issue: Issue, settings: Settings
) -> None:
    key, _ = issue(bob)
    list_models_from(workers[0], key, *addresses(4))
    days = timedelta(days=settings.CALL_RETENTION_DAYS)
    NetworkUse.objects.update(first_used_at=timezone.now() - days + timedelta(minutes=1))
    asyncio.run(RetentionJob(workers[0]._writer).clean())
    assert (Sighting.objects.count(), Alarm.objects.count(), NetworkUse.objects.count()) == (
        4,
        1,
        4,
    )
    Sighting.objects.update(start=timezone.now() - timedelta(minutes=21))
    Alarm.objects.update(raised_at=timezone.now() - timedelta(days=1, seconds=1))
    NetworkUse.objects.update(first_used_at=timezone.now() - days)
    asyncio.run(RetentionJob(workers[0]._writer).clean())
    assert (Sighting.objects.count(), Alarm.objects.count(), NetworkUse.objects.count()) == (
        0,
        0,
        0,
    )
