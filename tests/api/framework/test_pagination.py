"""Pages neither skip nor repeat rows when rows are added or deleted meanwhile."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from keyportal.api.framework.pagination import Cursor
from keyportal.api.framework.problems import Invalid
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.api_client import ApiClient, NewApiClient


def names(page: Any) -> list[str]:
    return [key["name"] for key in page["data"]]


def walk(program: ApiClient, path: str) -> list[dict[str, Any]]:
    found = program.get(path).json()
    rows = [*found["data"]]
    while found["next_cursor"]:
        found = program.get(f"{path}&cursor={found['next_cursor']}").json()
        rows += found["data"]
    return rows


def test_next_page_continues_after_the_last_row(
    new_api_client: NewApiClient, ada: User, issue: Any
) -> None:
    for number in range(5):
        issue(ada, f"key-{number}")
    program = new_api_client(ada)
    assert [key["name"] for key in walk(program, "keys?limit=2")] == [
        f"key-{number}" for number in (4, 3, 2, 1, 0)
    ]
    assert program.get("keys?limit=5").json()["next_cursor"] is None


def test_rows_added_or_deleted_meanwhile_do_not_shift_pages(
    new_api_client: NewApiClient, ada: User, issue: Any
) -> None:
    for number in range(4):
        issue(ada, f"key-{number}")
    program = new_api_client(ada)
    first = program.get("keys?limit=2").json()
    assert names(first) == ["key-3", "key-2"]
    issue(ada, "newest")
    ApiKey.objects.get(name="key-2").revoke(actor=None)  # The row that the cursor is at.
    second = program.get(f"keys?limit=2&cursor={first['next_cursor']}").json()
    assert names(second) == ["key-1", "key-0"]


def test_rows_with_the_same_time_are_listed_once(
    new_api_client: NewApiClient, ada: User, issue: Any
) -> None:
    for number in range(5):
        issue(ada, f"key-{number}")
    ApiKey.objects.update(created_at=datetime(2026, 1, 1, tzinfo=UTC))
    found = [key["name"] for key in walk(new_api_client(ada), "keys?limit=1")]
    assert found == ["key-4", "key-3", "key-2", "key-1", "key-0"]


def test_cursor_of_another_team_shows_no_foreign_rows(
    new_api_client: NewApiClient, ada: User, charlie: User, other_team: Any, issue: Any
) -> None:
    issue(ada, "hers")
    for number in range(2):
        issue(charlie, f"his-{number}", team=other_team)
    cursor = new_api_client(charlie, team=other_team).get("keys?limit=1").json()["next_cursor"]
    assert names(new_api_client(ada).get(f"keys?cursor={cursor}").json()) == ["hers"]


def test_every_list_is_paginated(
    new_api_client: NewApiClient, ada: User, bob: User, model: Any
) -> None:
    program = new_api_client(ada)
    for path in ("members", "audit", "models", "teams", "keys"):
        found = program.get(f"{path}?limit=1").json()
        assert set(found) == {"data", "next_cursor"}
        assert len(walk(program, f"{path}?limit=1")) == len(program.get(path).json()["data"])


@given(st.datetimes(timezones=st.just(UTC)), st.integers(0, 2**63 - 1))
def test_cursor_is_decoded_as_it_was_encoded(moment: datetime, pk: int) -> None:
    place = Cursor(moment, pk)
    assert Cursor.parse(str(place)) == place
    assert str(place).replace("-", "").replace("_", "").isalnum()


@given(st.text(max_size=64))
def test_invalid_cursor_is_a_client_error(text: str) -> None:
    with suppress(Invalid):
        assert isinstance(Cursor.parse(text), Cursor)
