"""A program's sign-in at the same moment as something else, and on a running server."""

from contextlib import suppress
from functools import partial
from urllib.parse import urlencode

import pytest
from django.core.cache import cache
from django.test import Client

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey, ProgramSignIn
from keyportal.keys.programs import device_flow
from keyportal.keys.programs.device_flow import Refused
from keyportal.teams.models import Membership, Session, Team, User
from tests.support.concurrency import run_concurrently
from tests.support.server import Reply, Server

pytestmark = pytest.mark.django_db(transaction=True)
GRANT = "urn:ietf:params:oauth:grant-type:device_code"
CLIENT = "coding-agent"
ROUNDS = 3
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def approved(user: User, team: Team, client: Client) -> str:
    """The device code of a program that this user has let in."""
    client.force_login(user)
    codes = device_flow.begin(CLIENT, "198.51.100.7")
    sign_in = device_flow.find_undecided(codes.user_code)
    assert sign_in is not None
    assert device_flow.approve(sign_in, user, team, client.session.session_key or "")
    return codes.device_code


def redeem(device_code: str) -> ApiKey | None:
    with suppress(Refused):
        return device_flow.redeem(device_code, CLIENT)[0]
    return None


def test_two_polls_get_one_key(bob: User, team: Team, client: Client) -> None:
    for number in range(ROUNDS):
        code = approved(bob, team, client)
        keys = run_concurrently(*[partial(redeem, code)] * 4)
        assert sum(key is not None for key in keys) == 1
        assert ApiKey.objects.count() == number + 1


def test_no_key_outlives_a_session_that_ends_meanwhile(
    bob: User, team: Team, client: Client
) -> None:
    for _ in range(ROUNDS):
        code = approved(bob, team, client)
        run_concurrently(partial(redeem, code), Session.objects.all().delete)
        assert not ApiKey.objects.exists()


def test_no_key_outlives_a_person_who_is_removed_or_deactivated_meanwhile(
    bob: User, team: Team, client: Client
) -> None:
    def deactivate() -> None:
        user = User.objects.get(pk=bob.pk)
        user.is_active = False
        user.save(update_fields=["is_active"])

    for _ in range(ROUNDS):
        User.objects.filter(pk=bob.pk).update(is_active=True)
        code = approved(bob, team, client)
        run_concurrently(partial(redeem, code), deactivate)
        assert not ApiKey.objects.filter(disabled_at=None).exists()
        ApiKey.objects.all().delete()
    User.objects.filter(pk=bob.pk).update(is_active=True)
    code = approved(bob, team, client)
    run_concurrently(partial(redeem, code), Membership.objects.get(user=bob).delete)
    assert not ApiKey.objects.filter(disabled_at=None).exists()


def test_only_one_person_can_let_a_program_in(
    bob: User, alice: User, team: Team, client: Client
) -> None:
    codes = device_flow.begin(CLIENT, None)
    sign_in = device_flow.find_undecided(codes.user_code)
    assert sign_in is not None
    done = run_concurrently(
        *[partial(device_flow.approve, sign_in, user, team, "s") for user in (alice, bob)],
        partial(device_flow.deny, sign_in),
    )
    assert sorted(map(bool, done)) == [False, False, True]


@pytest.mark.gateway
def test_a_program_signs_in_and_is_refused_as_soon_as_the_person_signs_out(
    live: Server, bob: User, team: Team, model: ServedModel, client: Client
) -> None:
    cache.clear()

    def post(path: str, **fields: str) -> Reply:
        return live.request("POST", path, body=urlencode(fields).encode(), headers=FORM)

    metadata = live.request("GET", "/.well-known/oauth-authorization-server").json()
    assert metadata["token_endpoint"].endswith("/oauth/token")
    codes = post("/oauth/device_authorization", client_id=CLIENT).json()
    token = partial(
        post, "/oauth/token", grant_type=GRANT, client_id=CLIENT, device_code=codes["device_code"]
    )
    assert token().json() == {"error": "authorization_pending"}
    client.force_login(bob)
    allowed = client.post("/device/approve/", {"code": codes["user_code"], "team": team.slug})
    assert allowed.status_code == 200
    ProgramSignIn.objects.update(polled_at=None)
    key = token().json()["access_token"]
    assert live.chat(key, model.name).status == 200
    client.post("/accounts/logout/")
    assert live.chat(key, model.name).status == 401
    assert key not in live.log
    assert codes["device_code"] not in live.log
    assert "/oauth/token" not in live.log  # Each poll would be a warning.
    cache.clear()
