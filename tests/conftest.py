"""Shared fixtures: people, keys, models and running servers.

Alice owns the team, Ada is its admin, Bob a member and Vera a viewer. Charlie is an outsider, who
owns another team.
"""

import gc
import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.hashers import make_password
from django.core.management import call_command
from django.core.management.commands import flush
from django.db import OperationalError, connection
from django.test import Client
from pytest_django import DjangoDbBlocker, Settings

from keyportal.catalog.models import BUILT_IN_URL, Route, ServedModel, Upstream
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.sign_in.sessions import ACTIVE_AT, BEGAN_AT, SessionStore
from tests.support import fake_upstream
from tests.support.clock import DAY, ensure_time_left
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.mail_server import MailServer
from tests.support.server import PatientServer, Server, SharedServer

# A busy machine must not make a test fail, nor an example that is drawn in one run of many. To look
# for other examples, run `pytest --hypothesis-profile=default`.
hypothesis.settings.register_profile(
    "keyportal",
    deadline=None,
    max_examples=50,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("keyportal")

PASSWORD = "correct horse battery staple"
USES_DATABASE = {"db", "transactional_db", "database"}
# The mark of a whole module. A single test that is marked stands beside others that are not.
ANY_DATABASE = re.compile(r"^pytestmark = (?:.*|\[(?:\n .*)+)mark\.any_database", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """On PostgreSQL, do not even import a module of which no test would run."""
    is_test = settings.IS_POSTGRESQL and collection_path.name.startswith("test_")
    return (is_test and is_for_any_database(collection_path)) or None


def is_for_any_database(file: Path) -> bool:
    return ANY_DATABASE.search(file.read_text()) is not None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests are a million objects and no garbage. Python's collector would look through
    them again and again. During the tests it looks less often than by default, because nearly all
    garbage of a request and of its queries needs no collector."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On PostgreSQL, run only the tests whose outcome can depend on the database. What is about one
    of the two databases runs on that one only.

    Tests of the shared server run one after the other, and of these the browser tests first,
    because the first test that does not use the server stops it (`pytest_runtest_setup`). The
    other long tests wait most of their time. On SQLite they come before, and on PostgreSQL after
    the tests of the shared server, so that one run uses the processor while the other waits. The
    short tests come last, so that no process still runs a long one when the others have nothing
    left to do. The longest one is the first of all.
    """
    config.hook.pytest_deselected(items=[item for item in items if not _belongs_here(item)])
    items[:] = filter(_belongs_here, items)
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[bool, ...]:
    fixtures = _fixtures(item)
    is_longest = item.path.parent.name == "faults"
    is_shared = "live" in fixtures
    is_short = not (is_shared or any(map(item.get_closest_marker, ("browser", "gateway", "long"))))
    is_late = is_shared != settings.IS_POSTGRESQL
    return not is_longest, is_short, is_late, is_shared and "chromium" not in fixtures


def _fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def _belongs_here(item: pytest.Item) -> bool:
    if not settings.IS_POSTGRESQL:
        return item.get_closest_marker("postgresql") is None
    is_elsewhere = item.get_closest_marker("any_database") or item.get_closest_marker("sqlite")
    return _uses_database(item) and is_elsewhere is None


def _uses_database(item: pytest.Item) -> bool:
    return bool(_fixtures(item) & USES_DATABASE) or item.get_closest_marker("django_db") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Stop the shared server before the first test that does not use it, and empty the tables.

    It would write usage after the end of the test that caused it, and send the mail of all tests.
    What it writes while it stops comes after the last test that used it has emptied the tables. It
    would wait for the transaction of this test, so this is before any fixture.
    """
    if Server.stop_shared and "live" not in _fixtures(item) and _uses_database(item):
        Server.stop_shared()


UNFLUSHED_TABLES = {"django_content_type", "auth_permission"}
CACHE_TABLE = (
    "keyportal_cache"  # Its rows count attempts. Django does not flush it: no model has it.
)


@pytest.fixture(scope="session", autouse=True)
def fast_flush() -> Iterator[None]:
    """Empty the tables with DELETE after each test that commits, and retry after a deadlock.

    Django would use TRUNCATE on PostgreSQL: it makes a new file for each table, and waits for all
    readers. Content types and permissions stay, so that Django need not create them again.

    A running server also writes usage while the tables are emptied. PostgreSQL may then abort one
    of the two because of a deadlock. The server retries by itself; Django doesn't.
    """
    operations = type(connection.ops)
    execute = operations.execute_sql_flush

    def delete(self: Any, _style: object, tables: list[str], **_options: bool) -> list[str]:
        names = sorted({*tables, CACHE_TABLE} - UNFLUSHED_TABLES)
        statements = [f"DELETE FROM {self.quote_name(table)}" for table in names]
        # PostgreSQL takes all of them in one round trip.
        return ["; ".join(statements)] if settings.IS_POSTGRESQL else statements

    def execute_with_retries(self: Any, sql_list: list[str]) -> None:
        for _ in range(10):
            with suppress(OperationalError):
                execute(self, sql_list)
                return
        execute(self, sql_list)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "sql_flush", delete)
        patch.setattr(operations, "execute_sql_flush", execute_with_retries)
        patch.setattr(flush, "emit_post_migrate_signal", lambda *_, **__: None)
        yield


def make_person(name: str, team: Team, role: Role) -> User:
    """In bulk, which leaves nothing in the audit."""
    user = User(username=name, email=f"{name}@example.com", password=make_password(PASSWORD))
    User.objects.bulk_create([user])
    Membership.objects.bulk_create([Membership(team=team, user=user, role=role)])
    return user


@pytest.fixture
def team(db: None) -> Team:
    return Team.objects.create(name="Acme", slug="u-8105f7322477")


@pytest.fixture
def other_team(db: None) -> Team:
    return Team.objects.create(name="Charlie's", slug="u-0000000000cc")


@pytest.fixture
def alice(team: Team) -> User:
    return make_person("alice", team, Role.OWNER)


@pytest.fixture
def ada(team: Team) -> User:
    return make_person("ada", team, Role.ADMIN)


@pytest.fixture
def bob(team: Team) -> User:
    return make_person("bob", team, Role.MEMBER)


@pytest.fixture
def vera(team: Team) -> User:
    return make_person("vera", team, Role.VIEWER)


@pytest.fixture
def charlie(other_team: Team) -> User:
    return make_person("charlie", other_team, Role.OWNER)


@pytest.fixture
def sign_in(client: Client) -> Callable[[User], Client]:
    """Sign a user in without the form, and without what a sign-in leaves in the audit.

    A test that is about that calls `client.force_login`, which takes ten times as long.
    """

    def sign_in(user: User) -> Client:
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session[BEGAN_AT] = session[ACTIVE_AT] = int(time.time())
        session.create()
        client.cookies[settings.SESSION_COOKIE_NAME] = str(session.session_key)
        return client

    return sign_in


@pytest.fixture
def issue(team: Team) -> Callable[..., tuple[ApiKey, str]]:
    """Issue a key; return it and its key string."""

    def issue(owner: User, name: str = "test-key", **more: object) -> tuple[ApiKey, str]:
        more.setdefault("actor", None)
        key, key_string = ApiKey.objects.issue(
            team=more.pop("team", team),  # type: ignore[arg-type]
            owner=owner,
            name=name,
            **more,  # type: ignore[arg-type]
        )
        return key, key_string.text

    return issue


@pytest.fixture
def model(team: Team) -> ServedModel:
    """The team's model `u-8105f7322477/test`, on the built-in upstream."""
    upstream = Upstream.objects.create(name="loopback", base_url=BUILT_IN_URL)
    served = ServedModel.objects.create(name=f"{team.slug}/test", team=team)
    Route.objects.create(model=served, upstream=upstream, upstream_model="loopback")
    return served


@pytest.fixture(scope="session")
def prepared_files(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Static files and the rest of what `keyportal.serve` prepares before it starts gunicorn."""
    with django_db_blocker.unblock():
        Server(tmp_path_factory.mktemp("prepared")).prepare()


@pytest.fixture(scope="session")
def server(
    prepared_files: None,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """The shared running Keyportal. Tests use it through `live`, which also commits."""
    workers = 4 if settings.IS_POSTGRESQL else 2
    with django_db_blocker.unblock():
        running = SharedServer(tmp_path_factory.mktemp("server"), workers=workers).start()

    def stop() -> None:
        Server.stop_shared = None
        running.stop()
        with django_db_blocker.unblock():
            call_command("flush", verbosity=0, interactive=False)

    Server.stop_shared = stop
    yield running
    Server.stop_shared = None
    running.stop()


@pytest.fixture
def live(transactional_db: None, server: Server) -> Server:
    """The shared running Keyportal; it sees what the test commits."""
    return server


@pytest.fixture
def own_server(
    transactional_db: None, prepared_files: None, tmp_path: Path
) -> Iterator[Callable[..., Server]]:
    """Start a Keyportal with its own settings: `own_server(KEYPORTAL_LOG_LEVEL="DEBUG")`.

    It takes seconds, so use it only for a test that stops the server or needs other settings.
    """
    started: list[Server] = []

    def own_server(
        kind: type[Server] = PatientServer, *, workers: int = 1, **environment: str
    ) -> Server:
        started.append(kind(tmp_path, workers=workers, **environment))
        return started[-1].start()

    yield own_server
    for server in started:
        server.stop()


@pytest.fixture(autouse=True)
def avoid_midnight() -> None:
    """Wait over midnight UTC, so that the day and month do not change within a test."""
    ensure_time_left(60, DAY)


@pytest.fixture(scope="session")
def upstream_server() -> Iterator[FakeUpstream]:
    with fake_upstream.running() as fake:
        yield fake


@pytest.fixture
def fake(upstream_server: FakeUpstream) -> FakeUpstream:
    """The fake model server, without records of earlier tests."""
    upstream_server.received.clear()
    upstream_server.reported_usage.clear()
    upstream_server.disconnected_at.clear()
    upstream_server.released.clear()
    upstream_server.bytes_read = 0
    return upstream_server


@pytest.fixture
def serve_model(team: Team, fake: FakeUpstream) -> Callable[..., str]:
    """Serve a model of the team from the fake upstream: `serve_model("stall")` returns its name."""

    def serve_model(behaviour: str, name: str = "", **upstream_fields: object) -> str:
        # It shares a process with the test, so it may be slow to accept.
        fields = {"base_url": fake.url, "connect_timeout": 60, **upstream_fields}
        server, _ = Upstream.objects.update_or_create(name=f"fake-{name}", defaults=fields)
        slug = re.sub(r"[^a-z0-9]+", "-", behaviour.lower()).strip("-")
        served = ServedModel.objects.create(name=f"{team.slug}/{name or slug}", team=team)
        Route.objects.create(model=served, upstream=server, upstream_model=behaviour)
        return served.name

    return serve_model


@pytest.fixture
def mail_server(settings: Settings) -> Iterator[MailServer]:
    """A mail server that receives the mail of this process."""
    with MailServer().running() as mail_server:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", mail_server.port
        yield mail_server
