"""Named people and their things. Alice owns the team, Ada is its admin, Bob a member, Vera views;
Charlie has a team of his own and is an outsider here."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.core.cache import cache
from django.core.management.commands import flush
from django.db import OperationalError, connection
from django.test import Client
from pytest_django import DjangoDbBlocker, Settings

from keyportal.catalog.models import BUILT_IN_URL, Route, ServedModel, Upstream
from keyportal.keys.models import ApiKey
from keyportal.notifications.models import QueuedMail
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.usage.models import (
    Alarm,
    Call,
    Flush,
    Lease,
    NetworkUse,
    Running,
    Sighting,
    UsageDay,
    UsageHour,
    UsageMinute,
    Window,
)
from tests.support import fake_upstream
from tests.support.clock import DAY, leave_time
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.mail_server import Sink
from tests.support.server import BareServer, Server, SharedServer

# A machine that does other things too is no reason to fail.
hypothesis.settings.register_profile("keyportal", deadline=None)
hypothesis.settings.load_profile("keyportal")

PASSWORD = "correct horse battery staple"
USES_DATABASE = {"db", "transactional_db", "database"}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The run on PostgreSQL repeats the tests whose outcome can depend on the database.

    Whatever the order, tests of the shared server come first, those in a browser before those
    that call models: `nothing_late` stops it when they are over.
    """
    if settings.IS_POSTGRESQL:
        config.hook.pytest_deselected(items=[one for one in items if not _can_differ(one)])
        items[:] = filter(_can_differ, items)
    items.sort(key=lambda item: ("live" not in _fixtures(item), "chromium" not in _fixtures(item)))


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _can_differ(item: pytest.Item) -> bool:
    return _uses_database(item) and item.get_closest_marker("any_database") is None


def _uses_database(item: pytest.Item) -> bool:
    return bool(_fixtures(item) & USES_DATABASE) or item.get_closest_marker("django_db") is not None


KEPT = {"django_content_type", "auth_permission"}


@pytest.fixture(scope="session", autouse=True)
def quick_and_patient_flush() -> Iterator[None]:
    """Django empties all tables after each test that commits. Here it deletes what is in them.

    On PostgreSQL it would truncate them, which makes a new file of each, and waits for everybody
    who reads one. What Django itself fills after that, it finds still there.

    A running server writes down what was used, also while a test's tables are emptied. PostgreSQL
    may then end one of the two, that wait for each other. The server tries again by itself;
    Django doesn't.
    """
    operations = type(connection.ops)
    execute = operations.execute_sql_flush

    def delete(self: Any, _style: object, tables: list[str], **_options: bool) -> list[str]:
        emptied = sorted(set(tables) - KEPT)
        return [f"DELETE FROM {self.quote_name(table)}" for table in emptied]

    def patiently(self: Any, sql_list: list[str]) -> None:
        for _ in range(10):
            with suppress(OperationalError):
                execute(self, sql_list)
                return
        execute(self, sql_list)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(operations, "sql_flush", delete)
        patched.setattr(operations, "execute_sql_flush", patiently)
        patched.setattr(flush, "emit_post_migrate_signal", lambda *_, **__: None)
        yield


def _person(name: str, team: Team, role: Role) -> User:
    user = User.objects.create_user(name, f"{name}@example.com", PASSWORD)
    Membership.objects.create(team=team, user=user, role=role)
    return user


@pytest.fixture
def team(db: None) -> Team:
    return Team.objects.create(name="Acme", slug="u-8105f7322477")


@pytest.fixture
def other_team(db: None) -> Team:
    return Team.objects.create(name="Charlie's", slug="u-0000000000cc")


@pytest.fixture
def alice(team: Team) -> User:
    return _person("alice", team, Role.OWNER)


@pytest.fixture
def ada(team: Team) -> User:
    return _person("ada", team, Role.ADMIN)


@pytest.fixture
def bob(team: Team) -> User:
    return _person("bob", team, Role.MEMBER)


@pytest.fixture
def vera(team: Team) -> User:
    return _person("vera", team, Role.VIEWER)


@pytest.fixture
def charlie(other_team: Team) -> User:
    return _person("charlie", other_team, Role.OWNER)


@pytest.fixture
def sign_in(client: Client) -> Callable[[User], Client]:
    """Sign one of the people in, without the form."""

    def sign_in(user: User) -> Client:
        client.force_login(user)
        return client

    return sign_in


@pytest.fixture
def issue(team: Team) -> Callable[..., tuple[ApiKey, str]]:
    """Issue a key and return it with its plaintext."""

    def issue(owner: User, name: str = "test-key", **more: object) -> tuple[ApiKey, str]:
        key, plaintext = ApiKey.objects.issue(
            team=more.pop("team", team),  # type: ignore[arg-type]
            owner=owner,
            name=name,
            **more,  # type: ignore[arg-type]
        )
        return key, plaintext.text

    return issue


@pytest.fixture
def model(team: Team) -> ServedModel:
    """The team's model `u-8105f7322477/test`, on the built-in upstream."""
    upstream = Upstream.objects.create(name="loopback", base_url=BUILT_IN_URL)
    served = ServedModel.objects.create(name=f"{team.slug}/test", team=team)
    Route.objects.create(model=served, upstream=upstream, upstream_model="loopback")
    return served


@pytest.fixture(scope="session")
def prepared(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Static files and all else that gunicorn alone does not make."""
    with django_db_blocker.unblock():
        Server(tmp_path_factory.mktemp("prepared")).prepare()


@pytest.fixture(scope="session")
def server(
    prepared: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """A running Keyportal with workers as many as the database is made for. Use it with `live`."""
    workers = 4 if settings.IS_POSTGRESQL else 2
    with django_db_blocker.unblock():
        running = SharedServer(tmp_path_factory.mktemp("server"), workers=workers).start()
    Server.running = running
    yield running
    Server.running = None
    running.stop()


@pytest.fixture
def live(transactional_db: None, server: Server) -> Server:
    """The running Keyportal, which sees what the test commits."""
    return server


@pytest.fixture
def own_server(
    transactional_db: None, prepared: None, tmp_path: Path
) -> Iterator[Callable[..., Server]]:
    """Start a Keyportal with settings of its own: `own_server(KEYPORTAL_LOG_LEVEL="DEBUG")`.

    For a test that stops it, or whose settings are others than those of `live`: it takes seconds.
    """
    started: list[Server] = []
    cache.clear()  # It counts failed sign-ins, and is no table that is emptied after a test.

    def own_server(
        kind: type[Server] = BareServer, *, workers: int = 1, **environment: str
    ) -> Server:
        started.append(kind(tmp_path, workers=workers, **environment))
        return started[-1].start()

    yield own_server
    for server in started:
        server.stop()


@pytest.fixture(autouse=True)
def time_left_of_the_day() -> None:
    """What a test calls today, or this month, is so until it ends."""
    leave_time(60, DAY)


@pytest.fixture(autouse=True)
def nothing_late(request: pytest.FixtureRequest) -> None:
    """The shared server writes down what a test used when that test is over, and sends the mail
    of every test. So the first test that doesn't use it stops it, and starts with empty tables.
    """
    fixtures = set(request.fixturenames)
    running = Server.running
    if running is None or "live" in fixtures or not _uses_database(request.node):
        return
    running.stop()
    Server.running = None
    request.getfixturevalue("transactional_db" if "transactional_db" in fixtures else "db")
    metered = (Call, UsageMinute, UsageHour, UsageDay, Flush, Running, Lease, Window)
    for written in (*metered, Sighting, NetworkUse, Alarm, QueuedMail):
        written.objects.all().delete()


@pytest.fixture(scope="session")
def upstream_server() -> Iterator[FakeUpstream]:
    with fake_upstream.running() as fake:
        yield fake


@pytest.fixture
def fake(upstream_server: FakeUpstream) -> FakeUpstream:
    """The fake model server, with an empty memory."""
    upstream_server.received.clear()
    upstream_server.told.clear()
    upstream_server.cut_at.clear()
    upstream_server.may_go_on.clear()
    upstream_server.arrived = 0
    return upstream_server


@pytest.fixture
def serve_model(team: Team, fake: FakeUpstream) -> Callable[..., str]:
    """Serve a model of the team from the fake upstream: `serve_model("stall")` returns its name."""

    def serve_model(behaviour: str, name: str = "", **upstream_fields: object) -> str:
        # It shares a process with the test, and may be long in coming.
        fields = {"base_url": fake.url, "connect_timeout": 60, **upstream_fields}
        server, _ = Upstream.objects.update_or_create(name=f"fake-{name}", defaults=fields)
        slug = re.sub(r"[^a-z0-9]+", "-", behaviour.lower()).strip("-")
        served = ServedModel.objects.create(name=f"{team.slug}/{name or slug}", team=team)
        Route.objects.create(model=served, upstream=server, upstream_model=behaviour)
        return served.name

    return serve_model


@pytest.fixture
def sink(settings: Settings) -> Iterator[Sink]:
    """A mail server, to which this process sends."""
    with Sink().running() as sink:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", sink.port
        yield sink
