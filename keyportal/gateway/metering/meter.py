"""What was used: gathered in the event loop, and handed to the writer once a second.

No verdict and no answer ever waits for a write. What can't be written waits in memory, which is
bounded: the rows of calls go first, the sums never. A kill -9 loses at most the last second.
"""

import asyncio
import time
from collections import Counter
from functools import partial
from itertools import islice

from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.calls import Call
from keyportal.gateway.errors import InvalidKey
from keyportal.gateway.metering import usage_sql
from keyportal.gateway.metering.anomalies import AnomalyDetector
from keyportal.gateway.metering.usage_sql import Alike, Flush, Look, Record, Sums, Use
from keyportal.gateway.metering.writer import Writer

FLUSH_SECONDS = 1.0
SLICE = 500  # Calls in a transaction: on SQLite it holds the only write lock, for a few ms.
MAX_RECORDS = 20_000
MAX_REFUSED = 10_000
MAX_LOOKED = 10_000


class Meter:
    """One per worker; every method runs in its event loop."""

    def __init__(self, worker: str, writer: Writer) -> None:
        self._worker = worker
        self._writer = writer
        self._watch = AnomalyDetector()
        self._records: list[Record] = []
        self._sums: Sums = {}
        self._alike: Counter[Alike] = Counter()
        self._uses: dict[int, Use] = {}
        self._refused: Counter[bytes] = Counter()
        self._claimed: dict[bytes, str] = {}
        self._cut: Counter[bytes] = Counter()
        self._looked: set[Look] = set()
        self._unwritten: Flush | None = None
        self._flushes = 0

    def saw(self, call: Call) -> None:
        """Note that a request was let in with this secret."""
        self._uses[call.verdict.secret_id] = Use(call.digest, time.time(), call.address, call.agent)

    def refused(self, digest: bytes, public_id: str) -> None:
        """Note a key that is well-formed and not ours, or not any more, or not for where it came
        from; the id is what it says."""
        if digest in self._refused or len(self._refused) < MAX_REFUSED:
            self._refused[digest] += 1
            self._claimed[digest] = public_id

    def looked(self, call: Call) -> None:
        """Note from where a key looked at what there is to call, or at itself: whoever tries a
        key that they found does just that. It is no call, so it has no row of its own."""
        self._saw_from(call.verdict, call.address)

    def ended(self, call: Call) -> None:
        """Note a call that was let in and is over, however it ended."""
        verdict, tally, first_byte = call.verdict, call.tally, call.first_byte
        seconds = time.monotonic() - call.began
        self._records.append(
            Record(
                call.request_id,
                time.time() - seconds,
                verdict.team_slug,
                verdict.public_id,
                verdict.owner_id,
                call.endpoint,
                call.model,
                call.status,
                tally.prompt,
                tally.completion,
                tally.cached,
                tally.is_estimated,
                None if first_byte is None else int((first_byte - call.began) * 1000),
                int(seconds * 1000),
                call.address,
                call.agent,
            )
        )
        if isinstance(call.ended_by, InvalidKey):
            self._cut[call.digest] += 1
        if len(self._records) > MAX_RECORDS:
            self._fold()

    def verified(
        self, verdict: Verdict, use: Use, endpoint: str, model: str, status: int, request_id: str
    ) -> None:
        """Note a verification for a proxy: a call without tokens. Of many at a time, only the
        first have rows.

        There can be several times as many as calls, and a row costs more than the verdict.
        """
        self._uses[verdict.secret_id] = use
        whose = (verdict.team_slug, verdict.public_id, verdict.owner_id)
        now = time.time()
        took = int((now - use.at) * 1000)
        if len(self._records) < SLICE:
            self._records.append(
                Record(
                    request_id,
                    use.at,
                    *whose,
                    endpoint,
                    model,
                    status,
                    duration_ms=took,
                    address=use.address,
                    agent=use.agent,
                )
            )
        else:
            self._saw_from(verdict, use.address)
            self._alike[int(now) // 60 * 60, *whose, model, status >= 400, took] += 1
            if len(self._alike) > MAX_RECORDS:
                self._fold_alike()

    def _saw_from(self, verdict: Verdict, address: str | None) -> None:
        """What has no row is seen by the watch this way."""
        if address and len(self._looked) < MAX_LOOKED:
            self._looked.add((verdict.team_slug, verdict.public_id, address))

    def _fold(self) -> None:
        """Keep only the sums of the oldest calls, because their rows can't be written for long."""
        oldest, self._records = self._records[:SLICE], self._records[SLICE:]
        usage_sql.add_up(oldest, self._sums)

    def _fold_alike(self) -> None:
        usage_sql.add_up_alike(self._alike, self._sums)
        self._alike = Counter()

    async def flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write all that was gathered. What can't be written now is kept for the next time."""
        while (unwritten := self._unwritten or self._next()) is not None:
            self._unwritten = unwritten
            if not await self._writer.do(partial(self._write, unwritten)):
                return
            self._unwritten = None

    def _write(self, unwritten: Flush) -> bool:
        """In the writer's thread. True when there is nothing more to do for it."""
        self._watch.look(unwritten, usage_sql.write(unwritten))
        return True

    def _next(self) -> Flush | None:
        """What one transaction takes, under a mark of its own; None when there is nothing."""
        records, self._records = self._records[:SLICE], self._records[SLICE:]
        self._fold_alike()
        sums, self._sums = self._sums, {}
        uses = dict(islice(self._uses.items(), SLICE))
        self._uses = dict(islice(self._uses.items(), SLICE, None))
        refused, self._refused = self._refused, Counter()
        claimed, self._claimed = self._claimed, {}
        cut, self._cut = self._cut, Counter()
        looked = set(islice(self._looked, SLICE))
        self._looked -= looked
        if not (records or sums or uses or refused or cut or looked):
            return None
        self._flushes += 1
        mark = f"{self._worker}-{self._flushes}"
        return Flush(mark, records, sums, uses, refused, cut, claimed, looked)
