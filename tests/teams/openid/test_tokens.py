"""ID tokens and answers of an identity provider that are forged, wrong or missing."""

import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from django.core.cache import cache
from django.test import Client

from keyportal.http import fetch
from keyportal.teams.models import User
from keyportal.teams.openid import requests
from tests.support.cases import case, own_case
from tests.support.identity_provider import ForgingProvider, private_key
from tests.teams.openid.conftest import Begin, is_signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
SignIn = Callable[..., Any]


def assert_refused(client: Client, answer: Any) -> None:
    assert (answer.status_code, answer.url) == (302, "/accounts/login/")
    page = client.get(answer.url).content.decode()
    assert "The sign-in with Corp SSO did not succeed. Try it again." in page
    assert not is_signed_in(client)
    assert not User.objects.exists()


def test_a_right_token_signs_in(
    client: Client, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    answer = sign_in_there()
    assert (answer.status_code, answer.url) == (302, "/")
    assert is_signed_in(client)
    assert User.objects.get().email == "dora@example.com"
    assert {path for path, _ in forger.requests} == {
        "/.well-known/openid-configuration",
        "/token",
        "/jwks",
    }


@pytest.mark.parametrize("methods", [["client_secret_post"], ["client_secret_basic"], None])
def test_secret_goes_as_the_provider_wants_it(
    client: Client, forger: ForgingProvider, sign_in_there: SignIn, methods: list[str] | None
) -> None:
    if methods:
        forger.metadata["token_endpoint_auth_methods_supported"] = methods
    sign_in_there()
    assert is_signed_in(client)
    ((_, form),) = [asked for asked in forger.requests if asked[0] == "/token"]
    assert ("client_secret" in form) == (methods == ["client_secret_post"])


WRONG_CLAIMS: list[dict[str, Any]] = [
    {"nonce": "of-another-sign-in"},
    {"nonce": None},
    {"nonce": 7},
    {"aud": "another-application"},
    {"aud": None},
    {"aud": ["another-application"]},
    {"aud": ["another-application", "keyportal"]},
    {"aud": ["another-application", "keyportal"], "azp": "another-application"},
    {"azp": "another-application"},
    {"iss": "https://accounts.example.com"},
    {"iss": None},
    {"exp": 1_600_000_000},
    {"exp": None},
    {"exp": "never"},
    {"iat": 4_000_000_000, "exp": 4_000_000_100},
    {"nbf": 4_000_000_000},
    {"iat": None},
    {"sub": None},
    {"sub": ""},
    {"sub": 1},
    {"sub": "s" * 192},
    {"sub": "line\nbreak"},
    {"sub": "nul\0"},
]


def test_wrong_claims_are_refused(
    client: Client, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    for claims in WRONG_CLAIMS:
        cache.clear()  # It has the count of sign-ins.
        forger.claims = claims
        with case(claims):
            assert_refused(client, sign_in_there())


def test_wrong_signatures_are_refused(
    client: Client, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    key, other_key = private_key("1"), private_key("2")
    for forger.key, forger.algorithm, forger.key_id in (
        (other_key, "RS256", "1"),  # Not the provider's key.
        (other_key, "RS256", "2"),  # A key that it does not list.
        (other_key, "RS256", None),
        (None, "none", "1"),  # Not signed at all.
        ("keyportal-" * 4, "HS256", "1"),  # Signed with something that others know.
        (key, "RS512", "1"),  # Another algorithm than the key is listed for.
    ):
        with case(forger.algorithm, forger.key_id):
            assert_refused(client, sign_in_there())


def test_public_key_is_no_hmac_secret(
    client: Client, forger: ForgingProvider, begin: Begin, come_back: SignIn
) -> None:
    """Attack: everybody knows the public key, and a careless check takes it as the secret."""
    answer = begin()
    head, claims, _ = forger.token().split(".")
    header = json.dumps({"alg": "HS256", "kid": "1"}).encode()
    signed = f"{jwt.utils.base64url_encode(header).decode()}.{claims}"
    pem = (
        private_key("1")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        signed.encode(), pem
    )
    token = f"{signed}.{jwt.utils.base64url_encode(signature).decode()}"
    forger.bodies["/token"] = 200, json.dumps({"access_token": "x", "id_token": token}).encode()
    assert head
    assert_refused(client, come_back(answer))


def test_key_without_an_id_is_found_if_it_is_the_only_one(
    client: Client, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    forger.key_id = None
    sign_in_there()
    assert is_signed_in(client)


def test_forged_or_missing_parameters_are_refused(
    client: Client, begin: Begin, come_back: SignIn
) -> None:
    for field in ("state", "code"):
        with own_case(field):
            answer = begin()
            assert_refused(client, come_back(answer | {field: "forged"}))
            missing = {name: value for name, value in begin().items() if name != field}
            assert_refused(client, come_back(missing))


def test_state_of_another_browser_is_refused(
    client: Client, begin: Begin, come_back: SignIn
) -> None:
    """Attack: a link that signs its reader in to the attacker's account."""
    answer = begin()
    other = Client()
    refused = other.get("/accounts/oidc/corp/login/callback/", answer)
    assert_refused(other, refused)


def test_state_works_once(
    client: Client, forger: ForgingProvider, begin: Begin, come_back: SignIn
) -> None:
    answer = begin()
    come_back(answer)
    assert is_signed_in(client)
    client.post("/accounts/logout/")
    assert come_back(answer).url == "/accounts/login/"
    assert not is_signed_in(client)


def test_person_who_cancels_sees_the_sign_in_page(
    client: Client, begin: Begin, come_back: SignIn
) -> None:
    answer = {"state": begin()["state"], "error": "access_denied"}
    assert_refused(client, come_back(answer))


CONFIGURATION, TOKEN, KEYS = "/.well-known/openid-configuration", "/token", "/jwks"


def test_wrong_answers_are_refused(
    client: Client, forger: ForgingProvider, begin: Begin, come_back: SignIn
) -> None:
    """All are read in one place, which judges what is no JSON object."""
    for path, status, body in (
        (TOKEN, 500, b"{}"),
        (TOKEN, 302, b"{}"),
        (TOKEN, 200, b""),
        (TOKEN, 200, b"<html>"),
        (TOKEN, 200, b"[" * 100_000),
        (TOKEN, 200, b" " * (fetch.MAX_BYTES + 1)),
        *((path, 500, b"{}") for path in (CONFIGURATION, KEYS)),
        *((path, 200, b"[]") for path in (CONFIGURATION, TOKEN, KEYS)),
        *((path, 200, b"{}") for path in (CONFIGURATION, TOKEN, KEYS)),
        (KEYS, 200, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "1"}]}'),
        (KEYS, 200, b'{"keys": {"1": 2}}'),
        (TOKEN, 200, b'{"access_token": [1], "id_token": {"a": 1}}'),
        (TOKEN, 200, b'{"access_token": "a", "id_token": "a.b.c"}'),
    ):
        forger.reset()
        cache.clear()
        answer = begin()
        forger.bodies[path] = status, body
        with case(path, status, body[:30]):
            assert_refused(client, come_back(answer))


def test_wrong_discovery_documents_are_refused(
    client: Client, forger: ForgingProvider, caplog: pytest.LogCaptureFixture
) -> None:
    for forger.metadata in (
        {"issuer": "https://accounts.example.com"},
        {"token_endpoint": "http://169.254.169.254/latest/meta-data"},
        {"jwks_uri": "http://keys.example.com/"},
        {"userinfo_endpoint": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": 7},
    ):
        caplog.clear()
        with case(forger.metadata):
            assert_refused(client, client.post("/accounts/oidc/corp/login/"))
            assert "Sign-in with corp from 127.0.0.1 failed" in caplog.text


def test_provider_elsewhere_names_no_address_on_this_machine(
    client: Client, configure: SignIn, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Attack: it has us send requests to a server that only this machine reaches."""
    names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    document = {name: f"https://sso.example.com/{name}" for name in names}
    document |= {"issuer": "https://sso.example.com", "token_endpoint": "http://127.0.0.1:9/"}
    monkeypatch.setattr(requests, "get_json", lambda _: document)
    configure(issuer="https://sso.example.com")
    assert_refused(client, client.post("/accounts/oidc/corp/login/"))
    assert "names 'http://127.0.0.1:9/', which is not https" in caplog.text


def test_provider_that_is_down_is_refused_and_named_in_the_log(
    client: Client, configure: SignIn, caplog: pytest.LogCaptureFixture
) -> None:
    configure(issuer="http://127.0.0.1:9")
    assert_refused(client, client.post("/accounts/oidc/corp/login/"))
    assert "http://127.0.0.1:9/.well-known/openid-configuration" in caplog.text


def test_slow_providers_leave_threads_for_pages(
    client: Client, forger: ForgingProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [requests._running.acquire(blocking=False) for _ in range(4)]
    assert all(taken)
    try:
        assert_refused(client, client.post("/accounts/oidc/corp/login/"))
    finally:
        for _ in taken:
            requests._running.release()
    assert forger.requests == []


def test_user_info_of_another_person_is_refused(
    client: Client, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    forger.claims = {"email": None, "email_verified": None}
    forger.user_info = {"sub": "sub-2", "email": "root@example.com", "email_verified": True}
    assert_refused(client, sign_in_there())


def test_user_info_adds_what_the_token_lacks(
    client: Client, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    forger.claims = {"email": None, "email_verified": None}
    forger.user_info = {"email": "erin@example.com", "email_verified": True}
    sign_in_there()
    assert User.objects.get().email == "erin@example.com"


def test_no_secret_and_no_token_reaches_the_log(
    forger: ForgingProvider, sign_in_there: SignIn, caplog: pytest.LogCaptureFixture
) -> None:
    forger.claims = {"exp": int(time.time()) - 3600}
    sign_in_there()
    assert "expired" in caplog.text
    for secret in ("s3cret", "an-access-token", "a-code", "eyJ"):
        assert secret not in caplog.text
