"""The ledger: limits, exact over all workers and hosts, by one counter in the database a window.

This runs in the admission thread, for a batch of requests at once. All windows of the batch are
counted up in one statement, whose row locks make the totals true; who then turns out to be too
many is refused, and taken back in the same transaction. So a window never holds more than its
limit, and nobody is refused for the sake of somebody who was refused.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from keyportal.gateway.admission import limiter_sql
from keyportal.gateway.admission.database import database
from keyportal.gateway.admission.limiter_sql import Total
from keyportal.gateway.admission.limits import (
    Allowance,
    Bucket,
    Buckets,
    Key,
    Left,
    refusal,
    shortage,
)
from keyportal.gateway.errors import GatewayError

HEARTBEAT_SECONDS = 2.0
MAX_KNOWN = 10_000


class Spent(NamedTuple):
    """What a call used, now that it is over; its place among the running is given back."""

    accounts: Buckets
    tokens: int


class RateLimiter:
    """One worker's hand on the counters. Every method runs in the admission thread."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        # Calls that run here, of subjects that limit them.
        self._running: Counter[str] = Counter()
        # Windows that are full, and until when. A committed count never falls, so this stays true.
        self._full: dict[Key, Total] = {}
        self._renewed_at = 0.0

    def post(
        self, asked: Sequence[Buckets], spent: Sequence[Spent], now: float
    ) -> list[Allowance | GatewayError]:
        """Count these requests and uses; each request is granted or refused, in their order.

        `now` is the database's clock, in seconds since 1970. Whoever meets a window that is known
        to be full costs no write. After an exception the connection must be closed: that takes
        back whatever has been written.
        """
        running = Running(self._running, spent)
        early = self._refuse_all_early(asked, running, now)
        counted = [one for one, refused in zip(asked, early, strict=True) if not refused]
        if not counted and not spent:
            return [refused for refused in early if refused]
        posting = BatchTransaction(counted, spent, running)
        here = database()
        here.begin()
        outcomes = iter(posting.decide(self.worker))
        if changed := running.changed():
            limiter_sql.write_leases(self.worker, changed)
        here.commit()
        running.apply(changed)
        self._note_full(posting.full)
        return [refused or next(outcomes) for refused in early]

    def keep_alive(self) -> None:
        """Say that this worker lives, while it has calls that others count."""
        if self._running and time.monotonic() - self._renewed_at > HEARTBEAT_SECONDS:
            limiter_sql.renew_leases(self.worker)
            self._renewed_at = time.monotonic()

    def _refuse_all_early(
        self, asked: Sequence[Buckets], running: "Running", now: float
    ) -> list[GatewayError | None]:
        """All that count in the same windows fare alike; but no two may raise one exception."""
        refused = {one for one in set(asked) if self._refuse_early(one, running, now)}
        return [self._refuse_early(one, running, now) if one in refused else None for one in asked]

    def _refuse_early(self, asked: Buckets, running: "Running", now: float) -> GatewayError | None:
        for account in asked:
            if account.parallel is not None and running.of(account.subject) >= account.parallel:
                return refusal(account, None, 1.0)
            total = self._full.get(account.key)
            if (
                total
                and now < total.ends_at
                and (short := shortage(account, total.requests, total.tokens))
            ):
                return refusal(account, short, total.ends_at - now)
        return None

    def _note_full(self, full: dict[Key, Total]) -> None:
        if len(self._full) > MAX_KNOWN:
            self._full.clear()
        self._full |= full


class Running:
    """How many calls of a subject run here, with what one batch changes, until that is written."""

    def __init__(self, before: Counter[str], ended: Sequence[Spent]) -> None:
        self._before = before
        self._change: Counter[str] = Counter()
        for accounts, _ in ended:
            for account in accounts:
                if account.parallel is not None:
                    self._change[account.subject] -= 1

    def of(self, subject: str) -> int:
        return self._before[subject] + self._change[subject]

    def begin(self, subject: str) -> None:
        self._change[subject] += 1

    def changed(self) -> dict[str, int]:
        """Those that are not as many as before, and how many they are now."""
        return {subject: max(self.of(subject), 0) for subject, by in self._change.items() if by}

    def apply(self, changed: Mapping[str, int]) -> None:
        for subject, calls in changed.items():
            if calls:
                self._before[subject] = calls
            else:
                del self._before[subject]


class WindowState:
    """What one window holds while a batch is counted in it."""

    __slots__ = ("granted", "requests", "total")

    def __init__(self, total: Total, added: int) -> None:
        self.total = total
        self.requests = total.requests - added
        """Before this batch, and then with those of it that are granted."""
        self.granted = 0

    def grant(self) -> None:
        self.requests += 1
        self.granted += 1


class BatchTransaction:
    """One transaction: what it adds, who of those that asked is granted, what is taken back."""

    def __init__(self, asked: Sequence[Buckets], spent: Sequence[Spent], running: Running) -> None:
        self._asked = asked
        self._requests = _count_requests(asked)
        self._tokens = _sum_tokens(spent)
        self._held: dict[Key, WindowState] = {}
        self._elsewhere: dict[str, int] = {}
        self._running = running
        self.full: dict[Key, Total] = {}

    def decide(self, worker: str) -> list[Allowance | GatewayError]:
        """Raises whatever the database raises; then nothing has happened."""
        requests = self._requests
        keys = sorted(requests.keys() | self._tokens.keys())
        totals = limiter_sql.add([(*key, requests[key], self._tokens[key]) for key in keys])
        self._held = {key: WindowState(total, requests[key]) for key, total in totals.items()}
        shared = {a.subject for one in set(self._asked) for a in one if a.parallel is not None}
        if shared:
            self._elsewhere = limiter_sql.calls_elsewhere(worker, sorted(shared))
        outcomes = [self._grant(one) for one in self._asked]
        back = [
            (held.total.row, requests[key] - held.granted)
            for key, held in self._held.items()
            if requests[key] > held.granted
        ]
        if back:
            limiter_sql.take_back(sorted(back))
        return outcomes

    def _grant(self, asked: Buckets) -> Allowance | GatewayError:
        for account in asked:
            if error := self._refusal(account, self._held[account.key]):
                return error
        for account in asked:
            self._held[account.key].grant()
            if account.parallel is not None:
                self._running.begin(account.subject)
        return self._allowance(asked)

    def _refusal(self, account: Bucket, held: WindowState) -> GatewayError | None:
        if account.parallel is not None:
            running = self._running.of(account.subject) + self._elsewhere.get(account.subject, 0)
            return refusal(account, None, 1.0) if running >= account.parallel else None
        total = held.total
        if short := shortage(account, held.requests, total.tokens):
            self.full[account.key] = total._replace(requests=held.requests)
            return refusal(account, short, total.resets_in)
        return None

    def _allowance(self, asked: Buckets) -> Allowance:
        """After this request; of several windows, the one that holds the least."""
        requests: Left | None = None
        tokens: Left | None = None
        for account in asked:
            held = self._held[account.key]
            if account.requests is not None:
                left = account.requests - held.requests
                if requests is None or left < requests.left:
                    requests = Left(account.requests, left, held.total.resets_in)
            if account.tokens is not None:
                left = account.tokens - held.total.tokens
                if tokens is None or left < tokens.left:
                    tokens = Left(account.tokens, left, held.total.resets_in)
        return Allowance(requests, tokens)


def _count_requests(asked: Sequence[Buckets]) -> Counter[Key]:
    requests: Counter[Key] = Counter()
    for one, times in Counter(asked).items():
        for account in one:
            requests[account.key] += times
    return requests


def _sum_tokens(spent: Iterable[Spent]) -> Counter[Key]:
    sums: Counter[Key] = Counter()
    for accounts, tokens in spent:
        for account in accounts:
            if account.tokens is not None:
                sums[account.key] += tokens
    return sums
