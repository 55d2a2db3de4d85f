"""No page fails on odd values in a part of its path, in its query or in its form.

The tests read the URLconf, so they cover each new URL.
"""

from collections.abc import Callable
from urllib.parse import quote

import pytest
from django.contrib import admin
from django.db.models import CharField, Model
from django.test import Client
from django.urls import Resolver404, resolve

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.test_isolation import PAGES, PART, URLS, fill

Issue = Callable[..., tuple[ApiKey, str]]
ODD = ["\x00", "AbCd123\x00", "9" * 5000, "\u202e%"]
# The names that any page reads from its query or its form.
PARAMETERS = [
    *("q", "sort", "page", "at", "key", "model", "member", "action", "status", "range", "start"),
    *("end", "by", "finding", "keys", "next", "o", "p", "e", "all"),
]


@pytest.fixture
def known(team: Team, alice: User, issue: Issue) -> dict[str, str]:
    """A valid value for each part of a path."""
    key, _ = issue(alice)
    return {"slug": team.slug, "public_id": key.public_id, "id": key.public_id, "username": "alice"}


@pytest.fixture
def browser(client: Client, alice: User) -> Client:
    """Signed in as a superuser. It raises the exceptions of pages."""
    alice.is_staff = alice.is_superuser = True
    alice.save(update_fields=["is_staff", "is_superuser"])
    client.force_login(alice)
    return client


@pytest.mark.parametrize("template", sorted({path for _, path in URLS if "<" in path}))
def test_odd_value_in_a_path_fails_no_page(
    browser: Client, known: dict[str, str], template: str
) -> None:
    for part in PART.findall(template):
        for odd in ODD:
            address = fill(template, **known | {part: quote(odd, safe="")})
            assert browser.get(address).status_code < 500, address
            if odd == ODD[1]:
                assert browser.post(address).status_code < 500, address


@pytest.mark.parametrize("template", sorted({path for _, path in PAGES}))
def test_odd_parameter_fails_no_page(browser: Client, known: dict[str, str], template: str) -> None:
    address = fill(template, **known)
    nul, number = (dict.fromkeys(PARAMETERS, odd) for odd in (ODD[0], ODD[2]))
    status = browser.get(address, nul).status_code
    assert status < 500
    # Django's own admin forms may fail on values that its pages never send.
    if address.startswith("/admin/"):
        return
    assert browser.get(address, number).status_code < 500
    assert browser.post(address, dict.fromkeys(PARAMETERS, ODD[1])).status_code < 500
    if status not in {200, 405}:
        # It refused one parameter, and may not have read the others.
        for name in PARAMETERS:
            assert browser.get(address, {name: ODD[0]}).status_code < 500, name


@pytest.mark.postgresql  # SQLite stores NUL.
@pytest.mark.parametrize("model", list(admin.site._registry), ids=lambda model: model.__name__)
def test_odd_filter_fails_no_admin_list(browser: Client, model: type[Model]) -> None:
    address = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
    texts = [field.name for field in model._meta.get_fields() if isinstance(field, CharField)]
    for name in [*texts, "q", "o", "p", "id", "team", "owner"]:
        for lookup in ("", "__exact", "__in", "__contains"):
            answer = browser.get(address, {f"{name}{lookup}": ODD[0]})
            assert answer.status_code < 500, (name, lookup)


@pytest.mark.parametrize("public_id", ["AbCd123", "AbCd12345", "AbCd123-", "AbCd123\n", "AbCd123é"])
def test_invalid_public_id_matches_no_url(public_id: str) -> None:
    for address in ("keys/{}/", "keys/{}/receipt/", "management-keys/{}/delete/"):
        whole = f"/teams/u-8105f7322477/{address}"
        assert resolve(whole.format("AbCd1234")).url_name
        with pytest.raises(Resolver404):
            resolve(whole.format(public_id))
