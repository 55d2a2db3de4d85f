"""Every address with what no database can hold, in each part of it and in its query: no page fails.

A new URL is walked as soon as it is in the URLconf.
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
# What any page reads of its query or form; forms judge what they know, views the rest.
ASKED = ["q", "sort", "page", "at", "key", "model", "member", "action", "status", "range", "start",
         "end", "by", "finding", "keys", "next", "o", "p", "e", "all"]  # fmt: skip


@pytest.fixture
def known(team: Team, alice: User, issue: Issue) -> dict[str, str]:
    """What each part of an address would be, were it not odd."""
    key, _ = issue(alice)
    return {"slug": team.slug, "public_id": key.public_id, "id": key.public_id, "username": "alice"}


@pytest.fixture
def browser(client: Client, alice: User) -> Client:
    """Signed in as one who may open everything. It raises whatever makes a page fail."""
    alice.is_staff = alice.is_superuser = True
    alice.save(update_fields=["is_staff", "is_superuser"])
    client.force_login(alice)
    return client


@pytest.mark.parametrize("template", sorted({path for _, path in URLS if "<" in path}))
def test_no_part_of_an_address_makes_a_page_fail(
    browser: Client, known: dict[str, str], template: str
) -> None:
    for part in PART.findall(template):
        for odd in ODD:
            address = fill(template, **known | {part: quote(odd, safe="")})
            for ask in (browser.get, browser.post):
                assert ask(address).status_code < 500, address


@pytest.mark.parametrize("template", sorted({path for _, path in PAGES}))
def test_nothing_that_is_asked_for_makes_a_page_fail(
    browser: Client, known: dict[str, str], template: str
) -> None:
    address = fill(template, **known)
    odd = dict.fromkeys(ASKED, ODD[0])
    assert browser.get(address, odd).status_code < 500
    # Django's own forms for operators may fail over what no page of theirs sends.
    if not address.startswith("/admin/"):
        assert browser.post(address, dict.fromkeys(ASKED, ODD[1])).status_code < 500
        for name in ASKED:
            assert browser.get(address, {name: odd[name]}).status_code < 500, name


@pytest.mark.parametrize("model", list(admin.site._registry), ids=lambda model: model.__name__)
def test_no_filter_of_the_admin_makes_a_list_fail(browser: Client, model: type[Model]) -> None:
    address = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
    texts = [field.name for field in model._meta.get_fields() if isinstance(field, CharField)]
    for name in [*texts, "q", "o", "p", "id", "team", "owner"]:
        for lookup in ("", "__exact", "__in", "__contains"):
            answer = browser.get(address, {f"{name}{lookup}": ODD[0]})
            assert answer.status_code < 500, (name, lookup)


@pytest.mark.parametrize("public_id", ["AbCd123", "AbCd12345", "AbCd123-", "AbCd123\n", "AbCd123é"])
def test_what_can_be_no_public_id_is_at_no_address(public_id: str) -> None:
    for address in ("keys/{}/", "keys/{}/receipt/", "management-keys/{}/delete/"):
        whole = f"/teams/u-8105f7322477/{address}"
        assert resolve(whole.format("AbCd1234")).url_name
        with pytest.raises(Resolver404):
            resolve(whole.format(public_id))
