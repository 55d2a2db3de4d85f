"""No page fails on odd values in a part of its path, in its query or in its form.

The tests read the URLconf, so they cover each new URL.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest
from django.contrib import admin
from django.contrib.auth import SESSION_KEY
from django.db import transaction
from django.db.models import CharField
from django.test import Client
from django.urls import Resolver404, resolve
from pytest_django import Settings

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support.cases import case
from tests.support.odd_fields import OddFields
from tests.test_isolation import PAGES, PART, URLS, fill

Issue = Callable[..., tuple[ApiKey, str]]
WITH_NUL, MANY_DIGITS = "AbCd123\x00", "9" * 5000
ODD = [WITH_NUL, MANY_DIGITS]


# SQLite stores NUL, so what is odd for a database is shown on PostgreSQL alone.
on_postgresql = pytest.mark.postgresql


@pytest.fixture
def known(team: Team, alice: User, issue: Issue) -> dict[str, str]:
    """A valid value for each part of a path."""
    key, _ = issue(alice)
    return {"slug": team.slug, "public_id": key.public_id, "id": key.public_id, "username": "alice"}


@pytest.fixture
def status(client: Client, alice: User, settings: Settings) -> Callable[..., int]:
    """`status("get", path, data)`: of a superuser's request. An exception of a page is raised."""
    settings.MIDDLEWARE = ["tests.support.odd_fields.give_odd_fields", *settings.MIDDLEWARE]
    settings.ACCOUNT_RATE_LIMITS = {}  # A request above a limit would try nothing.
    alice.is_staff = alice.is_superuser = True
    alice.save(update_fields=["is_staff", "is_superuser"])

    def status(method: str, path: str, data: object = None, **more: object) -> int:
        with case(method, path, data):
            if SESSION_KEY not in client.session:  # No page was opened yet, or one ended it.
                client.force_login(alice)
            answer = getattr(client, method)(path, data, **more)
            assert answer.status_code < 500
        return int(answer.status_code)

    return status


@contextmanager
def undone() -> Iterator[None]:
    """The next page finds what this one may have deleted."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def view_at(path: str) -> object:
    try:
        return resolve(path).func
    except Resolver404:
        return None


@on_postgresql
def test_odd_value_in_a_path_fails_no_page(
    status: Callable[..., int], known: dict[str, str]
) -> None:
    for template in sorted({path for _, path in URLS if "<" in path}):
        view = view_at(fill(template, **known))
        assert view, template
        # Most values do not fit the pattern of the URL, so that no page gets them.
        paths = [
            (odd, fill(template, **known | {part: quote(odd, safe="")}))
            for part in PART.findall(template)
            for odd in ODD
            if part != "slug" and view_at(fill(template, **known | {part: odd})) == view
        ]
        with undone():
            for odd, path in paths:
                status("get", path)
                if odd == WITH_NUL:
                    status("post", path)
    # All pages of a team get it from the same code.
    for odd in ODD:
        assert status("get", f"/teams/{quote(odd, safe='')}/keys/") == 404


@pytest.mark.long
@on_postgresql
def test_odd_field_fails_no_page(status: Callable[..., int], known: dict[str, str]) -> None:
    asked: set[str] = set()
    for template in sorted({path for _, path in PAGES}):
        # Django's own admin forms may fail on values that its pages never send.
        if not template.startswith("/admin/"):
            with undone():
                asked |= try_odd_fields(status, fill(template, **known))
    assert asked >= {"q", "sort", "page", "at", "finding", "keys", "name", "role"}


def try_odd_fields(status: Callable[..., int], path: str) -> set[str]:
    """Return the names of the fields that the page asked for."""
    query, form = OddFields(MANY_DIGITS), OddFields(WITH_NUL)
    status("get", path, odd=query)
    # One at a time, because the page may refuse the first that it reads.
    for name in query.names:
        status("get", path, {name: WITH_NUL})
    status("post", path, odd=form)
    return query.names | form.names


@on_postgresql
def test_odd_filter_fails_no_admin_list(status: Callable[..., int]) -> None:
    for model in admin.site._registry:
        path = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        texts = [field.name for field in model._meta.get_fields() if isinstance(field, CharField)]
        status("get", path, dict.fromkeys(texts, WITH_NUL))
        status("get", path, {f"{name}__in": WITH_NUL for name in texts})
        for name in ("q", "o", "p", "id", "team", "owner"):
            status("get", path, {name: WITH_NUL})
        # The values that its form begins with.
        status("get", f"{path}add/", {each.name: WITH_NUL for each in model._meta.get_fields()})


@pytest.mark.parametrize("public_id", ["AbCd123", "AbCd12345", "AbCd123-", "AbCd123\n", "AbCd123é"])
def test_invalid_public_id_matches_no_url(public_id: str) -> None:
    for address in ("keys/{}/", "keys/{}/receipt/", "management-keys/{}/delete/"):
        whole = f"/teams/u-8105f7322477/{address}"
        assert resolve(whole.format("AbCd1234")).url_name
        with pytest.raises(Resolver404):
            resolve(whole.format(public_id))
