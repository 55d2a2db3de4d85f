"""The usage page: sums, filters, charts and CSV."""

import csv
import json
import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from keyportal.gateway.metering.reported_usage import TokenDetails
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from keyportal.usage.models import Usage, UsageDay
from keyportal.usage.reports.periods import Step

pytestmark = pytest.mark.any_database

USAGE = "/teams/u-8105f7322477/usage/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]
Used = Callable[..., Usage]


def chart_data(response: Any) -> dict[str, Any]:
    """The data of the charts."""
    script = re.search(
        r'<script id="usage-data" type="application/json">(.*?)</script>',
        response.content.decode(),
    )
    assert script
    return dict(json.loads(script[1]))


def table_rows(response: Any) -> list[tuple[str, int]]:
    """The rows of the table: name and requests."""
    return [(group.name, group.used.requests) for group in response.context["report"].groups]


def test_viewer_sees_the_sums_of_the_team(
    sign_in: SignIn, vera: User, bob: User, other_team: Team, issue: Issue, used: Used
) -> None:
    key, _ = issue(bob, "<b>nightly")
    used(
        Step.DAY,
        key.public_id,
        requests=1200,
        failures=12,
        prompt_tokens=3_456_789,
        completion_tokens=5,
        cached_tokens=42,
        estimated_requests=3,
        latency_4=1200,
    )
    used(Step.DAY, key.public_id, ago=13, requests=34)
    used(Step.DAY, key.public_id, ago=14, requests=500)  # Just too old.
    used(Step.DAY, "foreign1", requests=9, team_slug=other_team.slug, model="secret")
    response = sign_in(vera).get(USAGE)
    text = response.content.decode()
    assert response.status_code == 200
    for expected in ("1,234", "3,456,789", "42 cached", "1.0 %", "750 ms", "&lt;b&gt;nightly"):
        assert expected in text
    assert "The tokens of 3 requests are estimated" in text
    assert "Days begin at 00:00 UTC" in text
    assert "secret" not in text
    assert table_rows(response) == [("<b>nightly", 1234)]


def test_charts_and_tables_have_the_same_numbers(
    sign_in: SignIn, bob: User, issue: Issue, used: Used
) -> None:
    one, _ = issue(bob, "one")
    two, _ = issue(bob, "two")
    used(Step.DAY, one.public_id, requests=5, latency_1=5)
    used(Step.DAY, two.public_id, requests=7, ago=1, failures=2)
    response = sign_in(bob).get(USAGE)
    data = chart_data(response)
    assert data["step"] == "day"
    assert len(data["moments"]) == 14
    assert [(each["label"], each["requests"][-2:]) for each in data["series"]] == [
        ("two", [7, 0]),
        ("one", [0, 5]),
    ]
    assert data["series"][0]["failures"][-2:] == [2, 0]
    assert data["latency"]["median"][-2:] == [None, 75]
    text = response.content.decode()
    assert "<td>7</td><td>0</td><td>7</td>" in text
    assert "<td>0</td><td>5</td><td>5</td>" in text
    assert "<td>75 ms</td><td>98 ms</td>" in text


def test_page_and_fragment_have_the_same_address(sign_in: SignIn, bob: User) -> None:
    client = sign_in(bob)
    page, fragment = client.get(USAGE), client.get(USAGE, headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<div id="usage">')
    assert "HX-Request" in fragment["Vary"]


def test_an_empty_page_says_why(sign_in: SignIn, bob: User, used: Used) -> None:
    client = sign_in(bob)
    assert "No usage in this period." in client.get(USAGE).content.decode()
    used(Step.DAY, "AbCd1234")
    filtered = client.get(USAGE, {"key": "%"}).content.decode()
    assert "No calls match these filters." in filtered
    assert '<option value="%" selected>' in filtered


def test_filters_combine(sign_in: SignIn, vera: User, used: Used) -> None:
    used(Step.DAY, "11111111", requests=1, model="public/small")
    used(Step.DAY, "11111111", requests=10, model="50%_off/x")
    used(Step.DAY, "22222222", requests=100, model="50%_off/x", owner_id=8)
    client = sign_in(vera)
    filters: list[tuple[dict[str, str], int]] = [
        ({}, 111),
        ({"key": "11111111"}, 11),
        ({"model": "50%_off/x"}, 110),
        ({"model": "50"}, 0),
        ({"member": "8"}, 100),
        ({"member": "7", "model": "50%_off/x"}, 10),
    ]
    for query, expected in filters:
        response = client.get(USAGE, query, headers=HTMX)
        assert response.context["report"].used.requests == expected, query
        assert sum(count for _, count in table_rows(response)) == expected, query


def test_usage_of_a_renamed_member_is_not_given_to_the_new_user_of_the_name(
    sign_in: SignIn, alice: User, vera: User, used: Used
) -> None:
    used(Step.DAY, "11111111", requests=5, owner_id=alice.pk)
    User.objects.filter(pk=alice.pk).update(username="alicia")
    heir = User.objects.create_user("alice", "heir@example.com")
    client = sign_in(vera)
    menus = client.get(USAGE).context["report"].menus
    assert menus.members == [(alice.pk, "alicia")]
    for user, expected in ((alice, 5), (heir, 0)):
        report = client.get(USAGE, {"member": user.pk}).context["report"]
        assert report.used.requests == expected


def test_a_deleted_members_usage_keeps_their_name(
    sign_in: SignIn, charlie: User, vera: User, used: Used
) -> None:
    number = charlie.pk
    used(Step.DAY, "11111111", requests=5, owner_id=number)
    charlie.delete()
    heir = User.objects.create_user("charlie", "heir@example.com")
    assert heir.pk != number
    page = sign_in(vera).get(USAGE, {"member": number})
    assert page.context["report"].used.requests == 5
    assert f'<option value="{number}" selected>charlie (deleted)' in page.content.decode()


def test_a_member_that_is_no_id_is_an_error(sign_in: SignIn, vera: User) -> None:
    assert (
        "This filter is not valid." in sign_in(vera).get(USAGE, {"member": "bob"}).content.decode()
    )


def test_menus_depend_on_the_other_filters(sign_in: SignIn, vera: User, used: Used) -> None:
    used(Step.DAY, "11111111", model="a", owner_id=vera.pk)
    used(Step.DAY, "22222222", model="b", owner_id=8)
    report = sign_in(vera).get(USAGE, {"key": "11111111"}).context["report"]
    assert [option.value for option in report.menus.keys] == ["11111111", "22222222"]
    assert [option.value for option in report.menus.models] == ["a"]
    assert report.menus.members == [(vera.pk, "vera")]


@pytest.mark.parametrize(
    ("chosen", "step", "expected"),
    [("1h", Step.MINUTE, 60), ("24h", Step.HOUR, 24), ("14d", Step.DAY, 14), ("90d", Step.DAY, 90)],
)
def test_each_range_reads_its_own_table(
    sign_in: SignIn, vera: User, used: Used, chosen: str, step: Step, expected: int
) -> None:
    used(step, "11111111", ago=expected // 2, requests=7)
    response = sign_in(vera).get(USAGE, {"range": chosen})
    assert len(chart_data(response)["moments"]) == expected
    assert response.context["report"].used.requests == 7


def test_a_custom_period_shows_its_usage(sign_in: SignIn, vera: User, team: Team) -> None:
    for day in range(1, 11):
        UsageDay.objects.create(
            start=f"2026-03-{day:02}T00:00Z",
            team_slug=team.slug,
            public_id="a",
            owner_id=7,
            requests=1,
        )
    query = {"range": "custom", "start": "2026-03-03T00:00", "end": "2026-03-08T00:00"}
    response = sign_in(vera).get(USAGE, query)
    assert response.context["report"].used.requests == 5
    assert 'value="2026-03-08T00:00"' in response.content.decode()
    for query, requests in (
        ({"start": "2026-03-03", "end": "2026-03-07"}, 5),
        ({"start": "2026-03-07", "end": "2026-03-07"}, 1),
    ):
        response = sign_in(vera).get(USAGE, {"range": "custom", **query})
        assert response.context["report"].used.requests == requests, query


def test_an_invalid_filter_shows_the_last_14_days(sign_in: SignIn, vera: User, used: Used) -> None:
    used(Step.DAY, "11111111", ago=13)
    client = sign_in(vera)
    filters: list[tuple[dict[str, str], str]] = [
        ({"range": "custom"}, ""),
        ({"range": "custom", "start": "2026-03-03", "end": "2026-03-02"}, "The end must be"),
        ({"range": "custom", "start": "2020-01-01", "end": "2026-01-01"}, "at most 400 days"),
        ({"range": "custom", "start": "0001-01-01", "end": "9999-12-31T23:59"}, "The end must"),
        ({"range": "custom", "start": "soon", "end": "later"}, "is not valid"),
        ({"range": "nonsense", "by": "nonsense", "key": "x" * 9}, "is not valid"),
        ({"model": "\x00"}, "is not valid"),
    ]
    for query, message in filters:
        response = client.get(USAGE, query, headers=HTMX)
        assert response.status_code == 200, query
        assert len(chart_data(response)["moments"]) == 14, query
        assert message in response.content.decode(), query


def test_the_largest_have_a_series_and_the_rest_share_one(
    sign_in: SignIn, vera: User, used: Used
) -> None:
    for number in range(12):
        used(Step.DAY, f"{number:08}", requests=10 + number, latency_0=10 + number)
    response = sign_in(vera).get(USAGE)
    series = chart_data(response)["series"]
    assert [each["label"] for each in series] == [f"{n:08}" for n in range(11, 3, -1)] + [
        "4 others"
    ]
    assert series[-1]["requests"][-1] == 10 + 11 + 12 + 13
    assert len(response.context["report"].groups) == 12
    by_model = sign_in(vera).get(USAGE, {"by": "model"})
    assert [each["label"] for each in chart_data(by_model)["series"]] == ["public/small"]


def test_calls_without_a_model_are_listed(sign_in: SignIn, vera: User, used: Used) -> None:
    used(Step.DAY, "11111111", model="")
    response = sign_in(vera).get(USAGE, {"by": "model"})
    assert table_rows(response) == [("no model", 1)]


def test_deleted_keys_keep_their_usage_and_name(
    sign_in: SignIn, bob: User, issue: Issue, used: Used
) -> None:
    key, _ = issue(bob, "old")
    used(Step.DAY, key.public_id)
    key.revoke(actor=bob)
    response = sign_in(bob).get(USAGE)
    assert table_rows(response) == [("old", 1)]
    assert chart_data(response)["series"][0]["label"] == "old (deleted)"
    assert ">Deleted</span>" in response.content.decode()


def test_csv_has_the_filtered_rows_and_no_formulas(
    sign_in: SignIn, vera: User, bob: User, issue: Issue, used: Used
) -> None:
    key, _ = issue(bob, "=HYPERLINK(1)")
    parts = {name: number for number, name in enumerate(TokenDetails._fields, 6)}
    row = used(
        Step.DAY, key.public_id, requests=3, prompt_tokens=5, latency_0=3, model="@x", **parts
    )
    used(Step.DAY, "other123", requests=9, model="y")
    client = sign_in(vera)
    response = client.get(f"{USAGE}csv/", {"model": "@x"})
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert 'filename="usage-u-8105f7322477.csv"' in response["Content-Disposition"]
    rows = [*csv.DictReader(StringIO(response.content.decode("utf-8-sig")))]
    assert [(each["key"], each["key_name"]) for each in rows] == [(key.public_id, "'=HYPERLINK(1)")]
    assert rows[0]["start"] == row.start.isoformat()
    assert [rows[0][name] for name in ("requests", "prompt_tokens", "median_ms")] == [
        "3",
        "5",
        "25",
    ]
    assert {name: rows[0][name] for name in parts} == {
        name: str(number) for name, number in parts.items()
    }
    by_model = client.get(f"{USAGE}csv/", {"by": "model"}).content.decode()
    assert "'@x,'@x,3" in by_model


@pytest.mark.parametrize("keys", [2, 60])
def test_query_count_does_not_depend_on_number_of_keys(
    sign_in: SignIn,
    vera: User,
    used: Used,
    django_assert_num_queries: DjangoAssertNumQueries,
    keys: int,
) -> None:
    for number in range(keys):
        used(Step.DAY, f"{number:08}", owner_id=vera.pk)
    client = sign_in(vera)
    client.get(USAGE)
    with django_assert_num_queries(10):
        client.get(USAGE, headers=HTMX)
