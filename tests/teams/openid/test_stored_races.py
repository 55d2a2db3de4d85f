"""Somebody comes back from a provider at the moment at which an operator deletes or changes it."""

from collections.abc import Callable
from typing import Any

import pytest
from allauth.socialaccount.models import SocialAccount
from django.test import Client
from pytest_django import Settings

from keyportal.teams.models import User
from keyportal.teams.openid.stored import StoredProvider
from tests.support.concurrency import run_concurrently
from tests.support.forms import form_data
from tests.support.identity_provider import CLIENT_ID, CLIENT_SECRET, ForgingProvider
from tests.teams.openid.conftest import Begin

ACTS = {
    "delete/": {},
    "edit/": {"issuer": "https://127.0.0.1:9", "secret": "another"},
}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("act", ACTS)
def test_nobody_is_connected_to_what_is_gone(
    forger: ForgingProvider,
    settings: Settings,
    begin: Begin,
    come_back: Callable[[dict[str, str]], Any],
    act: str,
) -> None:
    """The person is the operator herself, so that both wait for the provider and for her row."""
    settings.OIDC_PROVIDERS = ()
    dora = User.objects.create_superuser("dora", "dora@example.com")
    row = StoredProvider(provider_id="corp", name="Corp SSO", issuer=forger.issuer)
    row.client_id, row.client_secret = CLIENT_ID, CLIENT_SECRET
    row.domains, row.trust_addresses = "example.com", True
    row.save()
    operator = Client()
    operator.force_login(dora)
    path = f"/operators/sign-in/{row.pk}/{act}"
    form = form_data(operator.get(path), **ACTS[act])
    answer = begin()
    back, changed = run_concurrently(
        lambda: come_back(answer).status_code, lambda: operator.post(path, form).status_code
    )
    assert back == 302
    is_kept = StoredProvider.objects.filter(issuer=forger.issuer).exists()
    # Either the sign-in came first, and then its issuer can't change any more, or it is refused.
    assert SocialAccount.objects.exists() is is_kept
    assert changed == (422 if is_kept else 302)
