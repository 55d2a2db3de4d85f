"""The meter collects usage in the event loop and passes it to the writer once a second.

No verdict and no answer waits for a write. What can't be written stays in memory, which is bounded:
the rows of calls are dropped first, their sums never. A kill -9 loses the calls that ended in the
last second and ran for less than one; of others, see `lost_calls.py`.
"""

import asyncio
import time
from collections import Counter
from functools import partial
from itertools import islice

from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.calls import Call
from keyportal.gateway.errors import GatewayError, InvalidKey
from keyportal.gateway.metering import usage_sql
from keyportal.gateway.metering.anomalies import AnomalyDetector
from keyportal.gateway.metering.usage_sql import (
    CallRecord,
    Flush,
    LastUse,
    Lookup,
    Sums,
    VerificationGroup,
)
from keyportal.gateway.metering.writer import Writer

FLUSH_SECONDS = 1.0
SLICE = 500  # Calls per transaction, which has SQLite's only write lock for a few ms.
MAX_RECORDS = 20_000
MAX_REFUSED = 10_000
MAX_LOOKUPS = 10_000


class Meter:
    """One per worker. Every method runs in its event loop, unless it says otherwise."""

    def __init__(self, worker: str, writer: Writer) -> None:
        self._worker = worker
        self._writer = writer
        self._anomalies = AnomalyDetector()
        self._records: list[CallRecord] = []
        self._sums: Sums = {}
        self._verifications: Counter[VerificationGroup] = Counter()
        self._uses: dict[int, LastUse] = {}
        self._refused: Counter[bytes] = Counter()
        self._refused_ids: dict[bytes, str] = {}
        self._cut_off: Counter[bytes] = Counter()
        self._lookups: set[Lookup] = set()
        self._pending: Flush | None = None
        self._flushes = 0

    def record_use(self, call: Call) -> None:
        """Record that a request was admitted with this secret."""
        self._uses[call.verdict.secret_id] = LastUse(
            call.digest, time.time(), call.address, call.user_agent
        )

    def record_refusal(self, digest: bytes, public_id: str) -> None:
        """Record a refused request with a well-formed key.

        The key is unknown or no longer valid, or the request came from outside its allowed
        networks. `public_id` is what the key string contains; it may be made up.
        """
        if digest in self._refused or len(self._refused) < MAX_REFUSED:
            self._refused[digest] += 1
            self._refused_ids[digest] = public_id

    def record_lookup(self, call: Call) -> None:
        """Record from where a key listed its models or read its own data.

        Attack: this is how a stranger tests a key that they found. It is not a call, so it has no
        row in the call log.
        """
        self._add_lookup(call.verdict, call.address)

    def record_call(self, call: Call) -> None:
        """Record an admitted call that is over, however it ended."""
        verdict, tokens, first_byte = call.verdict, call.tokens, call.first_byte
        error, seconds = call.error, time.monotonic() - call.began
        self._records.append(
            CallRecord(
                call.request_id,
                time.time() - seconds,
                verdict.team_slug,
                verdict.public_id,
                verdict.owner_id,
                call.endpoint,
                call.model,
                call.status,
                tokens.prompt,
                tokens.completion,
                *tokens.details,
                tokens.service_tier,
                tokens.is_estimated,
                None if first_byte is None else int((first_byte - call.began) * 1000),
                int(seconds * 1000),
                call.address,
                call.user_agent,
                *_code_and_message(error),
                call.attempts,
            )
        )
        if isinstance(call.ended_by, InvalidKey):
            self._cut_off[call.digest] += 1
        if len(self._records) > MAX_RECORDS:
            self._drop_oldest_records()

    def record_verification(
        self,
        verdict: Verdict,
        use: LastUse,
        endpoint: str,
        model: str,
        error: GatewayError | None,
        request_id: str,
    ) -> None:
        """Record a verification for a proxy: a call without tokens.

        Of many between two flushes, only the first have rows in the call log: there can be several
        times as many verifications as calls, and a row costs more than the verdict.
        """
        self._uses[verdict.secret_id] = use
        owner = (verdict.team_slug, verdict.public_id, verdict.owner_id)
        now = time.time()
        duration_ms = int((now - use.at) * 1000)
        status = error.status if error else 200
        if len(self._records) < SLICE:
            self._records.append(
                CallRecord(
                    request_id,
                    use.at,
                    *owner,
                    endpoint,
                    model,
                    status,
                    duration_ms=duration_ms,
                    address=use.address,
                    user_agent=use.user_agent,
                    error_code=_code_and_message(error)[0],
                    error_message=_code_and_message(error)[1],
                )
            )
        else:
            self._add_lookup(verdict, use.address)
            self._verifications[int(now) // 60 * 60, *owner, model, status >= 400, duration_ms] += 1
            if len(self._verifications) > MAX_RECORDS:
                self._sum_verifications()

    def _add_lookup(self, verdict: Verdict, address: str | None) -> None:
        """Pass a request without a row in the call log to the anomaly detector."""
        if address and len(self._lookups) < MAX_LOOKUPS:
            self._lookups.add((verdict.team_slug, verdict.public_id, address))

    def _drop_oldest_records(self) -> None:
        """Keep only the sums of the oldest calls: there are too many that can't be written."""
        oldest, self._records = self._records[:SLICE], self._records[SLICE:]
        usage_sql.add_records(oldest, self._sums)

    def _sum_verifications(self) -> None:
        usage_sql.add_verifications(self._verifications, self._sums)
        self._verifications = Counter()

    async def flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write everything collected so far. What can't be written stays for the next flush."""
        while (flush := self._pending or self._next_flush()) is not None:
            self._pending = flush
            if not await self._writer.run(partial(self._write, flush)):
                return
            self._pending = None

    def _write(self, flush: Flush) -> bool:
        """Runs in the writer's thread. True when the flush is done."""
        self._anomalies.detect(flush, usage_sql.write(flush))
        return True

    def _next_flush(self) -> Flush | None:
        """What one transaction writes, with an id of its own; None if there is nothing."""
        records, self._records = self._records[:SLICE], self._records[SLICE:]
        self._sum_verifications()
        sums, self._sums = self._sums, {}
        uses = dict(islice(self._uses.items(), SLICE))
        self._uses = dict(islice(self._uses.items(), SLICE, None))
        refused, self._refused = self._refused, Counter()
        refused_ids, self._refused_ids = self._refused_ids, {}
        cut_off, self._cut_off = self._cut_off, Counter()
        lookups = set(islice(self._lookups, SLICE))
        self._lookups -= lookups
        if not (records or sums or uses or refused or cut_off or lookups):
            return None
        self._flushes += 1
        flush_id = f"{self._worker}-{self._flushes}"
        return Flush(flush_id, records, sums, uses, refused, cut_off, refused_ids, lookups)


def _code_and_message(error: GatewayError | None) -> tuple[str, str]:
    """What the caller got. Error messages quote nothing of a prompt."""
    return (error.code or "", str(error)) if error else ("", "")
