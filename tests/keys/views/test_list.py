"""The list of keys: what it shows to whom, and how it is searched, sorted and paged."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models import Model
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.keys.rules.permissions import Permissions
from keyportal.teams.models import Membership, Team, User
from keyportal.usage.models import UsageDay
from keyportal.usage.reports.periods import Step
from tests.support.database_work import database_work

LIST = "/teams/u-8105f7322477/keys/"
FIRST = 10_000_000  # Of the public ids of many keys, which have eight characters.
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def names(response: Any) -> list[str]:
    return [row.key.name for row in response.context["rows"]]


@pytest.mark.any_database
def test_member_sees_the_teams_keys(
    sign_in: SignIn, alice: User, bob: User, issue: Issue, team: Team
) -> None:
    key, plaintext = issue(alice, "nightly")
    response = sign_in(bob).get(LIST)
    text = response.content.decode()
    assert response.status_code == 200
    assert "nightly" in text
    assert key.masked in text
    assert "Never" in text
    assert "<strong>1 of 20</strong>" in text
    assert "1–1 of 1" in text
    assert plaintext not in text
    assert "no-store" in response["Cache-Control"]


@pytest.mark.any_database
def test_page_and_fragment_have_the_same_address(sign_in: SignIn, alice: User) -> None:
    client = sign_in(alice)
    page, fragment = client.get(LIST), client.get(LIST, headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<section id="table"')
    assert "HX-Request" in page["Vary"]
    assert "HX-Request" in fragment["Vary"]


@pytest.mark.any_database
def test_inactive_team_is_refused_with_the_reason(sign_in: SignIn, alice: User, team: Team) -> None:
    Team.objects.update(is_active=False)
    response = sign_in(alice).get(LIST)
    assert response.status_code == 403
    assert "inactive" in response.content.decode()


@pytest.mark.any_database
def test_viewer_sees_keys_without_create_and_delete(
    sign_in: SignIn, alice: User, vera: User, issue: Issue
) -> None:
    issue(alice)
    text = sign_in(vera).get(LIST).content.decode()
    assert "test-key" in text
    assert "/delete/" not in text
    assert "/create/" not in text
    assert "data-opens" not in text


@pytest.mark.any_database
def test_member_can_delete_only_their_own_keys(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    hers, _ = issue(alice, "hers")
    his, _ = issue(bob, "his")
    text = sign_in(bob).get(LIST).content.decode()
    assert f"{LIST}{his.public_id}/delete/" in text
    assert f"{LIST}{hers.public_id}/delete/" not in text


@pytest.mark.any_database
def test_other_teams_keys_are_not_listed(
    sign_in: SignIn, alice: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    issue(charlie, "foreign", team=other_team)
    assert names(sign_in(alice).get(LIST)) == []


@pytest.mark.any_database
def test_markup_in_a_name_is_escaped(sign_in: SignIn, alice: User, issue: Issue) -> None:
    issue(alice, "<script>alert(1)</script>")
    text = sign_in(alice).get(LIST).content.decode()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.any_database
def test_empty_list_says_how_to_begin(
    client: Client, sign_in: SignIn, alice: User, vera: User
) -> None:
    assert "Press Create" in sign_in(alice).get(LIST).content.decode()
    assert "role Member" in sign_in(vera).get(LIST).content.decode()


def test_search_finds_by_name_and_by_public_id(sign_in: SignIn, alice: User, issue: Issue) -> None:
    key, _ = issue(alice, "Nightly_run")
    issue(alice, "other")
    client = sign_in(alice)
    assert names(client.get(LIST, {"q": "nightly_"})) == ["Nightly_run"]
    assert names(client.get(LIST, {"q": key.public_id})) == ["Nightly_run"]
    nothing = client.get(LIST, {"q": "<b>%"})
    assert names(nothing) == []
    assert "No key matches “&lt;b&gt;%”" in nothing.content.decode()


@pytest.mark.any_database
def test_search_for_a_key_string_uses_its_public_id_and_hides_it_from_the_address(
    sign_in: SignIn, alice: User, issue: Issue
) -> None:
    key, plaintext = issue(alice, "wanted")
    issue(alice, "other")
    client = sign_in(alice)
    for text, headers in (
        (plaintext, {}),
        (plaintext, HTMX),
        (f"the key {plaintext}!", HTMX),
        (plaintext[:-9], HTMX),
        (plaintext * 2, HTMX),
    ):
        query = {"q": text, "sort": "name"}
        response = client.get(LIST, query, headers=headers, follow=True)
        assert response.redirect_chain == [(f"{LIST}?q={key.public_id}&sort=name", 302)]
        assert names(response) == ["wanted"]
        assert plaintext[14:30] not in response.content.decode()


@pytest.mark.any_database
def test_search_for_a_masked_key_finds_it(sign_in: SignIn, alice: User, issue: Issue) -> None:
    key, _ = issue(alice, "wanted")
    issue(alice, "sk-kp-named")
    client = sign_in(alice)
    for text in (key.masked, key.masked[:14], f" {key.masked} "):
        assert names(client.get(LIST, {"q": text})) == ["wanted"]
    assert names(client.get(LIST, {"q": "sk-kp-named"})) == ["sk-kp-named"]


@pytest.mark.any_database
def test_invalid_parameters_are_ignored(sign_in: SignIn, alice: User, issue: Issue) -> None:
    issue(alice)
    client = sign_in(alice)
    for query in ("q=%00", "q=" + "x" * 65, "sort=owner__password", "page=zero"):
        assert names(client.get(f"{LIST}?{query}", headers=HTMX)) == ["test-key"], query


def test_every_column_sorts_both_ways_and_the_newest_key_comes_first(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    now = timezone.now()
    for name, owner, used in (
        ("b", alice, now),
        ("a", bob, now - timedelta(days=1)),
        ("c", bob, None),
    ):
        key, _ = issue(owner, name)
        Secret.objects.filter(key=key).update(last_used_at=used)
    client = sign_in(alice)
    for sort, expected in (
        ("", ["c", "a", "b"]),
        ("name", ["a", "b", "c"]),
        ("-name", ["c", "b", "a"]),
        ("created", ["b", "a", "c"]),
        ("-created", ["c", "a", "b"]),
        ("owner", ["b", "a", "c"]),
        ("-owner", ["c", "a", "b"]),
        ("last_used", ["c", "a", "b"]),
        ("-last_used", ["b", "a", "c"]),
    ):
        assert names(client.get(LIST, {"sort": sort}, headers=HTMX)) == expected, sort


@pytest.mark.any_database
def test_heading_links_the_opposite_order(sign_in: SignIn, alice: User, issue: Issue) -> None:
    issue(alice)
    text = sign_in(alice).get(LIST, {"sort": "name", "q": "test"}).content.decode()
    assert '<th scope="col" aria-sort="ascending">' in text
    assert 'href="?sort=-name&amp;q=test"' in text
    assert 'href="?sort=-last_used&amp;q=test"' in text


@pytest.mark.any_database
def test_pages_hold_25_and_keep_search_and_order(sign_in: SignIn, alice: User, team: Team) -> None:
    fill(team, alice, 27)
    client = sign_in(alice)
    first = client.get(LIST, {"q": "key", "sort": "name"})
    assert names(first)[:3] == ["key 0", "key 1", "key 10"]
    assert "1–25 of 27" in first.content.decode()
    assert "?q=key&amp;sort=name&amp;page=2" in first.content.decode()
    assert names(client.get(LIST, {"sort": "name", "page": "2"})) == ["key 8", "key 9"]
    assert names(client.get(LIST, {"sort": "name", "page": "99"})) == ["key 8", "key 9"]


@pytest.mark.any_database
def test_expiry_and_allowed_models_are_shown(sign_in: SignIn, alice: User, issue: Issue) -> None:
    issue(
        alice,
        expires_at=datetime(2199, 1, 31, 12, tzinfo=UTC),
        permissions=Permissions(("a/b", "c")),
    )
    text = sign_in(alice).get(LIST).content.decode()
    assert ">Expires 2199-01-31</span>" in text
    assert 'title="May call only a/b, c">2 models</span>' in text


@pytest.mark.any_database
def test_large_counts_have_thousands_separators(sign_in: SignIn, alice: User, team: Team) -> None:
    Team.objects.update(max_keys=5000)
    fill(team, alice, 1234)
    text = sign_in(alice).get(LIST, {"page": "41"}).content.decode()
    assert "<strong>1,234 of 5,000</strong>" in text
    assert "1,001–1,025 of 1,234" in text


@pytest.mark.any_database
def test_keys_that_do_not_work_are_marked(
    sign_in: SignIn, alice: User, ada: User, bob: User, issue: Issue
) -> None:
    now = timezone.now()
    issue(alice, "expired", expires_at=now - timedelta(hours=1))
    issue(alice, "alive", expires_at=now + timedelta(hours=1))
    issue(ada, "inactive")
    issue(bob, "left")
    User.objects.filter(pk=ada.pk).update(is_active=False)
    Membership.objects.filter(user=bob).delete()
    ApiKey.objects.filter(name="left").update(disabled_at=None, disabled_by="")
    ApiKey.objects.filter(name="alive").update(disabled_at=now, disabled_by="owner")
    rows = sign_in(alice).get(LIST).content.decode().split("<tr")
    marks = ("Expired", "Disabled", "Owner left")
    found = {
        name: [mark for mark in marks if f">{mark}</span>" in row]
        for name in ("expired", "alive", "inactive", "left")
        for row in rows
        if f">{name}</span>" in row
    }
    assert found == {
        "expired": ["Expired"],
        "alive": ["Disabled"],
        "inactive": ["Owner left"],
        "left": ["Owner left"],
    }


@pytest.mark.any_database
def test_last_use_is_shown_as_a_time(sign_in: SignIn, alice: User, issue: Issue) -> None:
    issue(alice)
    Secret.objects.update(last_used_at="2026-11-23T22:45:10Z")
    text = sign_in(alice).get(LIST).content.decode()
    assert '<time datetime="2026-11-23T22:45:10+00:00">2026-11-23 22:45 UTC</time>' in text


def test_row_shows_the_requests_of_14_days(
    sign_in: SignIn, vera: User, bob: User, team: Team, other_team: Team, issue: Issue
) -> None:
    key, _ = issue(bob, "busy")
    issue(bob, "idle")
    today = Step.DAY.floor(timezone.now())
    for ago, requests, slug in ((0, 1200, team.slug), (13, 34, team.slug), (14, 5, team.slug)):
        UsageDay.objects.create(
            owner_id=7,
            start=today - timedelta(days=ago),
            team_slug=slug,
            public_id=key.public_id,
            requests=requests,
        )
    text = sign_in(vera).get(LIST, headers=HTMX).content.decode()
    assert text.count('aria-label="1,234 requests in 14 days"') == 1
    assert '<path d="M0 18v-1h3v1zM52 18v-18h3v18z"/>' in text
    assert 'aria-label="No requests in 14 days"' in text
    assert "style=" not in text


@pytest.mark.any_database
@pytest.mark.parametrize("keys", [3, 25])
def test_query_count_does_not_depend_on_number_of_keys(
    sign_in: SignIn,
    alice: User,
    team: Team,
    django_assert_num_queries: DjangoAssertNumQueries,
    keys: int,
) -> None:
    fill(team, alice, keys)
    Secret.objects.update(last_used_at=None)
    client = sign_in(alice)
    client.get(LIST)  # The first visit also notes the team in the session.
    with django_assert_num_queries(14):
        client.get(LIST)
    with django_assert_num_queries(12):
        client.get(LIST, headers=HTMX)
    Secret.objects.update(last_used_at=timezone.now())
    with django_assert_num_queries(11):  # None needs to be looked for among the ended secrets.
        client.get(LIST, headers=HTMX)


def test_last_use_of_a_rotated_secret_is_shown(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    pages = [LIST, f"{LIST}bulk/delete/?keys={key.public_id}", "/teams/u-8105f7322477/health/"]
    for address in pages:
        assert ">Never<" in client.get(address, headers=HTMX).content.decode(), address
    for day in (2, 1):
        Secret.objects.update(last_used_at=f"2026-01-0{day}T00:00:00Z")
        rotate(key, GracePeriod.NOW, actor=bob)
    for address in pages:
        page = client.get(address, headers=HTMX).content.decode()
        assert ">Never<" not in page, address
        assert '<time datetime="2026-01-02T00:00:00+00:00">' in page, address


def test_pages_of_20000_keys_read_each_key_a_few_times(
    sign_in: SignIn, alice: User, team: Team
) -> None:
    fill(team, alice, 20_000)
    assert Secret.objects.filter(last_used_at__isnull=False).count() == 19_999
    client = sign_in(alice)
    client.get(LIST)
    for query in ({}, {"sort": "name", "page": "800"}, {"q": "77"}, {"sort": "-last_used"}):
        work = database_work(partial(show, client, query))
        assert work <= {"sqlite": 1_600_000, "postgresql": 400_000}[connection.vendor], query


def fill(team: Team, owner: User, number: int) -> None:
    """The database copies all of them from the first: as objects they would take a minute."""
    key = ApiKey.objects.create(team=team, owner=owner, name="key 0", public_id=str(FIRST))
    Secret.objects.create(key=key, digest=b"0" * 32, prefix="sk-kp-", last4="k3Tz")
    numbers = f"""WITH RECURSIVE numbers (number) AS (
      SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {number - 1})"""
    names = {"name": "'key ' || number", "public_id": f"CAST({FIRST} + number AS text)"}
    ago = "(keys_apikey.id * 7919 % 100003)"
    digest = " || ".join(["public_id"] * 4)
    if connection.vendor == "postgresql":
        secrets = {
            "digest": f"CAST({digest} AS bytea)",
            "last_used_at": f"now() - {ago} * interval '1 second'",
        }
    else:
        secrets = {
            "digest": f"CAST({digest} AS blob)",
            "last_used_at": f"datetime('now', -{ago} || ' seconds')",
        }
    others = f"CROSS JOIN keys_apikey WHERE keys_apikey.id <> {key.pk}"
    with connection.cursor() as cursor:
        cursor.execute(f"{numbers} {copying(ApiKey, names)} CROSS JOIN numbers")
        look_again(cursor)
        cursor.execute(copying(Secret, {"key_id": "keys_apikey.id"} | secrets) + others)
        look_again(cursor)


def look_again(cursor: CursorWrapper) -> None:
    """As autovacuum would. Where the planner thinks that keys are few, it reads all secrets for
    each, those just made too, which takes longer than a statement may.
    """
    if connection.vendor == "postgresql":
        cursor.execute("ANALYZE keys_apikey, keys_secret")


def copying(table: type[Model], changes: dict[str, str]) -> str:
    """An INSERT of what a SELECT finds, which is to go on from here, but for some columns."""
    name = table._meta.db_table
    columns = [str(field.column) for field in table._meta.concrete_fields if not field.primary_key]
    values = (changes.get(column, f"{name}.{column}") for column in columns)
    return f"INSERT INTO {name} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {name} "


def show(client: Client, query: dict[str, str]) -> None:
    assert client.get(LIST, query, headers=HTMX).status_code == 200
