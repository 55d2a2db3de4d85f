"""What the log has of refused requests: one line each, with the sender and without secrets."""

import logging
import logging.config
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from keyportal.teams.models import Team, User

pytestmark = pytest.mark.any_database
SignIn = Callable[[User], Client]


@pytest.fixture
def log() -> Iterator[StringIO]:
    """The log as production writes it; pytest's own handlers stay."""
    text = StringIO()
    config: dict[str, Any] = settings.LOGGING
    handler = {**config["handlers"]["console"], "stream": text}
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    logging.config.dictConfig(
        config
        | {
            "handlers": {"console": handler},
            "root": {"handlers": ["console"], "level": "DEBUG"},
        }
    )
    yield text
    logging.config.dictConfig(config)
    root.handlers[:], root.level = before


def lines(log: StringIO) -> list[str]:
    return [line for line in log.getvalue().splitlines() if "django" in line]


def test_wrong_host_is_one_short_line(client: Client, log: StringIO) -> None:
    answer = client.get("/", headers={"host": "x" * 5000 + ".example.com"})
    assert answer.status_code == 400
    (line,) = lines(log)
    assert "Invalid HTTP_HOST header" in line
    assert "127.0.0.1" in line
    assert len(line) < 500
    assert "Traceback" not in log.getvalue()


def test_too_large_form_is_one_line(client: Client, log: StringIO, db: None) -> None:
    fields = {f"field{number}": "x" for number in range(2000)}
    assert client.post("/accounts/login/", fields).status_code == 400
    assert len(lines(log)) == 1
    assert "Traceback" not in log.getvalue()


def test_refusals_by_role_name_the_user_and_the_address(
    sign_in: SignIn, team: Team, vera: User, charlie: User, log: StringIO
) -> None:
    assert sign_in(vera).get(f"/teams/{team.slug}/audit/").status_code == 403
    assert sign_in(charlie).get(f"/teams/{team.slug}/").status_code == 404
    assert sign_in(charlie).get(f"/teams/{team.slug}/keys/").status_code == 404
    weak, *unknown = lines(log)
    assert "needs the role Admin; in this team you are Viewer. (vera, 127.0.0.1)" in weak
    assert all(line.endswith("(charlie, 127.0.0.1)") for line in unknown)
    assert len(unknown) == 2


def test_tokens_that_reset_a_password_are_not_logged(
    client: Client, db: None, log: StringIO
) -> None:
    client.get("/accounts/password/reset/key/1-abc123-0123456789abcdef/")
    logging.getLogger("keyportal").debug(
        "GET /accounts/password/reset/key/1-abc123-0123456789abcdef/ HTTP/1.1"
    )
    assert "GET /accounts/password/reset/key/***/ HTTP/1.1" in log.getvalue()
    assert "abc123" not in log.getvalue()


@pytest.mark.parametrize(
    "path",
    [
        "/invitations/WzEs-Ijk:1xXht:hO14cn/",
        "/accounts/login/?next=/invitations/WzEs-Ijk:1xXht:hO14cn/",
        "/accounts/login/?next=%2Finvitations%2FWzEs-Ijk%3A1xXht%3AhO14cn%2F",
        "/accounts/link/WzEs-Ijk:1xXht:hO14cn/",
    ],
)
def test_links_that_invite_or_sign_in_are_not_logged(log: StringIO, path: str) -> None:
    logging.getLogger("keyportal").warning("Forbidden: %s (not signed in, 127.0.0.1)", path)
    assert "***" in log.getvalue()
    assert "not signed in, 127.0.0.1" in log.getvalue()
    for part in ("WzEs", "1xXht", "hO14cn"):
        assert part not in log.getvalue()
