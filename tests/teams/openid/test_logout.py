"""A person signs out at the provider, which says so."""

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from allauth.socialaccount.models import SocialAccount
from django.db import OperationalError
from django.test import Client

from keyportal.teams.models import User
from keyportal.teams.openid import logout
from keyportal.teams.openid.logout import EVENT
from tests.support.cases import own_case
from tests.support.identity_provider import ForgingProvider, private_key
from tests.teams.openid.conftest import is_signed_in
from tests.teams.sign_in.test_factors import enter_code, set_up

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
CLAIMS: dict[str, Any] = {"events": {EVENT: {}}, "jti": "1", "nonce": None}


def sign_out(forger: ForgingProvider, path: str = "corp", **claims: Any) -> Any:
    forger.query = {}
    forger.claims = CLAIMS | claims
    form = {"logout_token": forger.token()}
    return Client(enforce_csrf_checks=True).post(f"/accounts/oidc/{path}/logout/", form)


@pytest.fixture
def browser(bob: User, forger: ForgingProvider) -> Client:
    """Of bob, who is sub-1 there."""
    SocialAccount.objects.create(user=bob, provider="corp", uid="sub-1")
    client = Client()
    client.force_login(bob)
    return client


def test_all_sessions_of_the_person_end(
    browser: Client, forger: ForgingProvider, alice: User
) -> None:
    other = Client()
    other.force_login(alice)
    SocialAccount.objects.create(user=alice, provider="other", uid="sub-1")
    answer = sign_out(forger)
    assert (answer.status_code, answer.content) == (200, b"")
    assert "no-store" in answer["Cache-Control"]
    assert not is_signed_in(browser)
    assert is_signed_in(other)


def test_somebody_unknown_signs_out(browser: Client, forger: ForgingProvider) -> None:
    assert sign_out(forger, sub="sub-2").status_code == 200
    assert is_signed_in(browser)


def test_wrong_claims_end_nothing(browser: Client, forger: ForgingProvider) -> None:
    cases: list[dict[str, Any]] = [
        {"nonce": "of an ID token"},
        {"events": None},
        {"events": EVENT},
        {"events": {"https://example.com/other": {}}},
        {"iat": 1_700_000_000, "exp": 9_000_000_000},
        {"exp": 1},
        {"jti": None},
        {"sub": None},
        {"sub": None, "sid": ""},
        {"sub": None, "sid": ["s-1"]},
        {"aud": "another application"},
        {"iss": "https://evil.example"},
        # Of a provider with a fault, which gets an answer all the same.
        {"iat": "1700000000"},
        {"iat": [1]},
        {"iat": float("inf")},
        {"sub": ""},
        {"sub": "a\x00b"},
        {"sub": "\ud800"},
        {"sub": "x" * 192},
    ]
    for claims in cases:
        with own_case(claims):
            assert sign_out(forger, **claims).status_code == 400
            assert is_signed_in(browser)


def test_token_works_once(
    browser: Client, bob: User, forger: ForgingProvider, configure: Callable[..., Any]
) -> None:
    """Attack: somebody who has read a token signs the person out again and again."""
    assert sign_out(forger).status_code == 200
    browser.force_login(bob)
    assert sign_out(forger).status_code == 400
    assert is_signed_in(browser)
    assert sign_out(forger, jti="2").status_code == 200
    assert not is_signed_in(browser)
    configure(id="other")  # Its tokens have the same names.
    assert sign_out(forger, "other", jti="2").status_code == 200


def test_token_that_is_not_used_works_later(
    browser: Client, forger: ForgingProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database fails at the sessions: the provider sends the token again."""
    with monkeypatch.context() as patch:
        patch.setattr(logout, "end_sessions", Mock(side_effect=OperationalError))
        with pytest.raises(OperationalError):
            sign_out(forger)
    assert sign_out(forger).status_code == 200
    assert not is_signed_in(browser)


def test_session_of_the_provider_ends_what_began_with_it(
    client: Client,
    browser: Client,
    forger: ForgingProvider,
    configure: Callable[..., Any],
    sign_in_there: Callable[..., Any],
) -> None:
    forger.claims = {"sid": "s-1"}
    sign_in_there()
    sid: dict[str, Any] = {"sub": None, "sid": "s-1"}
    assert sign_out(forger, **sid | {"sid": "s-2"}).status_code == 200
    assert is_signed_in(client)
    configure(id="other")  # Its sessions have the same names.
    assert sign_out(forger, "other", **sid, jti="2").status_code == 200
    assert is_signed_in(client)
    configure(id="corp")
    assert sign_out(forger, **sid, jti="3").status_code == 200
    assert not is_signed_in(client)
    assert is_signed_in(browser)  # Also of the person, and begun with a password.


def test_session_of_the_provider_ends_one_with_a_second_factor(
    client: Client, bob: User, forger: ForgingProvider, sign_in_there: Callable[..., Any]
) -> None:
    SocialAccount.objects.create(user=bob, provider="corp", uid="sub-1")
    _, codes = set_up(Client(), bob)
    forger.claims = {"sid": "s-1"}
    sign_in_there()
    enter_code(client, codes[0])
    assert is_signed_in(client)
    assert sign_out(forger, sub=None, sid="s-1").status_code == 200
    assert not is_signed_in(client)


def test_sign_out_while_the_second_factor_is_asked_for(
    client: Client, bob: User, forger: ForgingProvider, sign_in_there: Callable[..., Any]
) -> None:
    cases: list[dict[str, Any]] = [{}, {"sub": None}]
    for person in cases:
        with own_case(person):
            SocialAccount.objects.create(user=bob, provider="corp", uid="sub-1")
            _, codes = set_up(Client(), bob)
            forger.claims = {"sid": "s-1"}
            sign_in_there()
            assert sign_out(forger, sid="s-1", **person).status_code == 200
            enter_code(client, codes[0])
            assert not is_signed_in(client)


def test_forged_signature_ends_nothing(browser: Client, forger: ForgingProvider) -> None:
    """Attack: anybody signs anybody out."""
    forger.key = private_key("2")
    assert sign_out(forger).status_code == 400
    forger.key, forger.algorithm = "", "none"
    assert sign_out(forger).status_code == 400
    assert is_signed_in(browser)


def test_unknown_provider_and_missing_token(browser: Client, forger: ForgingProvider) -> None:
    assert sign_out(forger, "other").status_code == 400
    assert Client().post("/accounts/oidc/corp/logout/").status_code == 400
    assert Client().get("/accounts/oidc/corp/logout/").status_code == 405
    assert is_signed_in(browser)
