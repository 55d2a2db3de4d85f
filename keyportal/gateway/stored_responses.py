"""Which model server stores an answer: its id is noted with its team as the answer passes.

Model servers know no teams. Attack: a caller sends the id of another team's answer, and reads it,
or goes on with its conversation. So each id is noted with its team, and is unknown to all others.
"""

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from django.db import connections, transaction

from keyportal.catalog.snapshot import Target
from keyportal.database.clock import NOW
from keyportal.gateway.access import Models, find_model
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.errors import DatabaseUnavailable, ModelNotFound, ResponseNotFound
from keyportal.gateway.metering.writer import ALIAS, Writer
from keyportal.gateway.relay.answer import Answer
from keyportal.gateway.relay.encoded_answer import is_encoded
from keyportal.gateway.relay.response_id import ID, WatchedBody, id_of_answer
from keyportal.gateway.relay.sse import is_event_stream
from keyportal.usage.models import StoredResponse

MAX_WAITING = 10_000


class Maker(NamedTuple):
    """The served model and the model server that made an answer."""

    model: str
    upstream_id: int

    def targets(self, targets: Sequence[Target]) -> tuple[Target, ...]:
        """Those of the model server that made the answer. Raises `ResponseNotFound` without any."""
        found = tuple(target for target in targets if target.upstream_id == self.upstream_id)
        if not found:
            raise ResponseNotFound
        return found


class Row(NamedTuple):
    """One row of the table, without its time."""

    team_slug: str
    response_id: str
    model: str
    upstream_id: int


class StoredResponses:
    """One per worker. It runs in its event loop."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._waiting: deque[Row] = deque(maxlen=MAX_WAITING)

    async def watch(self, answer: Answer, team_slug: str, maker: Maker) -> Answer:
        """The same answer; its id is stored before the caller can use it, on any worker.

        That of a compressed answer, which we ask no server for, is not read, so it is unknown.
        """

        async def store(response_id: str) -> None:
            self._waiting.append(Row(team_slug, response_id, *maker))
            await self._writer.run(self._write_waiting)

        if answer.status != 200 or is_encoded(answer.headers):
            return answer
        if isinstance(answer.body, bytes):
            if response_id := id_of_answer(answer.body):
                await store(response_id)
            return answer
        body = WatchedBody(answer.body, store, is_events=is_event_stream(answer.headers))
        return answer._replace(body=body)

    async def find_callable(self, models: Models, response_id: str, verdict: Verdict) -> Maker:
        """Raises what `find` raises, or `ModelNotAllowed` if the key may not call its model.

        Attack: a key for few models reads, or goes on with, what another key of the team has said
        to another model.
        """
        maker = await self.find(verdict.team_slug, response_id)
        try:
            find_model(models, maker.model, verdict)
        except ModelNotFound:
            raise ResponseNotFound from None
        return maker

    async def find(self, team_slug: str, response_id: str) -> Maker:
        """What made this answer of this team. Raises `ResponseNotFound` or `DatabaseUnavailable`.

        Two model servers may give the same id. A guess could go on with the wrong conversation, so
        such an id is not found.
        """
        if not ID.fullmatch(response_id):
            raise ResponseNotFound
        found = await self._writer.run(partial(_select, team_slug, response_id))
        if found is None:
            raise DatabaseUnavailable
        if len(found) != 1:
            raise ResponseNotFound
        return found[0]

    # The rest runs in the writer's thread.

    def _write_waiting(self) -> None:
        """Write all rows that wait, in one transaction: those of many answers at once.

        If it fails, they wait for the next call.
        """
        rows = []
        while self._waiting:
            rows.append(self._waiting.popleft())
        try:
            _upsert(rows)
        except BaseException:
            self._waiting.extendleft(reversed(rows))
            raise


def _upsert(rows: Sequence[Row]) -> None:
    if not rows:
        return  # Another call has written them.
    # In this order: two workers that lock the same rows in another order would wait for ever.
    values = sorted(rows)
    with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
        cursor.executemany(_UPSERT.format(now=NOW[connections[ALIAS].vendor]), values)


def _select(team_slug: str, response_id: str) -> list[Maker]:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(_SELECT, (team_slug, response_id))
        return [Maker(*row) for row in cursor.fetchall()]


_TABLE = StoredResponse._meta.db_table
_UPSERT = f"""
INSERT INTO {_TABLE} (team_slug, response_id, model, upstream_id, created_at)
VALUES (%s, %s, %s, %s, {{now}})
ON CONFLICT (team_slug, response_id, model, upstream_id) DO UPDATE
SET created_at = excluded.created_at
"""  # noqa: S608 - our own names
_SELECT = f"""
SELECT model, upstream_id FROM {_TABLE} WHERE team_slug = %s AND response_id = %s LIMIT 2
"""  # noqa: S608 - our own names
