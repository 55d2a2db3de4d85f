"""When the old secret of a rotated key stops working."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from keyportal.audit.models import Tombstone
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, revoke_old_secret, rotate
from keyportal.teams.models import User
from tests.support.load import LoadGenerator
from tests.support.server import Server, head, wait_until

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]


def test_old_secret_works_until_the_new_one_is_used(live: Server, bob: User, issue: Issue) -> None:
    """It stops working about a second later, when that use has been recorded."""
    key, old = issue(bob)
    new = rotate(key, GracePeriod.FIRST_USE, actor=bob).text
    load = LoadGenerator(live, head("GET /v1/models", old, None), connections=4)

    def use_the_new_one() -> None:
        assert set(load.statuses_since(0)) == {200}
        assert live.request("GET", "/v1/models", key=new).status == 200
        newest = key.secrets.order_by("-pk")
        wait_until(lambda: newest[0].last_used_at)

    later = load.during(use_the_new_one, before=30, after=60)
    assert set(later) == {401}
    assert set(load.statuses_since(0)) == {200, 401}
    assert live.request("GET", "/v1/models", key=new).status == 200


def test_forward_auth_request_counts_as_first_use(live: Server, bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.FIRST_USE, actor=bob).text

    def verify(text: str) -> int:
        return live.request("GET", "/auth/verify", key=text).status

    assert [verify(old), verify(new)] == [200, 200]
    wait_until(lambda: verify(old) == 401)
    assert verify(new) == 200


def test_old_secret_expires(live: Server, bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.HOUR, actor=bob).text
    ends_at = timezone.now() + timedelta(seconds=1)
    Secret.objects.filter(key=key, expires_at__isnull=False).update(expires_at=ends_at)
    with live.connect() as connection:
        while True:
            asked_at = timezone.now()
            connection.send_request("GET /v1/models", old)
            if connection.reply().status != 200:
                break
            assert asked_at < ends_at
            time.sleep(0.02)
    assert timezone.now() >= ends_at
    assert live.request("GET", "/v1/models", key=new).status == 200


def test_old_secret_that_is_ended_early_is_refused_and_recorded(
    live: Server, bob: User, issue: Issue
) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.WEEK, actor=bob).text
    assert [live.request("GET", "/v1/models", key=text).status for text in (old, new)] == [200, 200]
    revoke_old_secret(key, actor=bob)
    assert [live.request("GET", "/v1/models", key=text).status for text in (old, new)] == [401, 200]
    wait_until(lambda: Tombstone.objects.get(public_id=key.public_id).refused_requests == 1)
