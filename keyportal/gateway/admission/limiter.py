"""The rate limiter: limits that are exact over all workers and hosts.

Each window has one counter in the database. The limiter runs in the admission thread, for a batch
of requests at once. One statement increments all windows of the batch; its row locks make the
totals exact. Requests that exceed a limit are refused, and their increments are subtracted again in
the same transaction. So a window never exceeds its limit, and a refused request causes no other
refusal. On PostgreSQL, a batch in which nothing is refused takes one statement and no transaction.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from keyportal.gateway.admission import limiter_sql
from keyportal.gateway.admission.database import LOCKED_ERRORS, database
from keyportal.gateway.admission.limiter_sql import Total
from keyportal.gateway.admission.limits import (
    Allowance,
    Bucket,
    Buckets,
    Remaining,
    WindowKey,
    exhausted_limit,
    limit_error,
)
from keyportal.gateway.admission.locked_windows import LockedWindows
from keyportal.gateway.errors import GatewayError

RENEW_SECONDS = 2.0
MAX_FULL_WINDOWS = 10_000


class Usage(NamedTuple):
    """What a completed call used; its slot of the parallel requests is released."""

    buckets: Buckets
    tokens: int


class Locked:
    """A request that counts in a window which is locked. It must be counted later."""


LOCKED = Locked()


class Counted(NamedTuple):
    """The result of each request, in order, and the usage that counts in locked windows."""

    results: Sequence[Allowance | GatewayError | Locked]
    unwritten: Sequence[Usage] = ()


class RateLimiter:
    """One worker's access to the counters. Every method runs in the admission thread."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        # Calls that run in this worker, of subjects with a limit of parallel requests.
        self._running: Counter[str] = Counter()
        # Windows that are full. A committed count never falls, so each is full until it ends.
        self._full: dict[WindowKey, Total] = {}
        self._renewed_at = 0.0
        self.locked = LockedWindows()

    def count(self, requests: Sequence[Buckets], usages: Sequence[Usage], now: float) -> Counted:
        """Count these requests and this usage, except where a window is locked.

        `now` is the database's clock, in seconds since 1970. A request that meets a window known to
        be full costs no write. After an exception the caller must close the connection, which rolls
        back the transaction.
        """
        for add_locked in (self.locked.find, self.locked.add):
            try:
                return self._count(requests, usages, now)
            except LOCKED_ERRORS:
                database().rollback()
                add_locked(_windows(requests, usages))
        return self._count(requests, usages, now)  # Nothing that could be locked is left.

    def _count(self, requests: Sequence[Buckets], usages: Sequence[Usage], now: float) -> Counted:
        unwritten: list[Usage] = []
        if self.locked:
            unwritten = [usage for usage in usages if self.locked.touch(usage.buckets)]
            usages = [usage for usage in usages if not self.locked.touch(usage.buckets)]
        running = ParallelCalls(self._running, usages)
        early_errors = self._check_full_windows(requests, running, now)
        if self.locked:
            early_errors = [
                error or (LOCKED if self.locked.touch(buckets) else None)
                for buckets, error in zip(requests, early_errors, strict=True)
            ]
        remaining = [
            buckets for buckets, error in zip(requests, early_errors, strict=True) if not error
        ]
        transaction = BatchTransaction(remaining, usages, running)
        if transaction.is_empty():
            return Counted([error for error in early_errors if error], unwritten)
        outcomes = transaction.execute_at_once()
        if outcomes is None:
            outcomes = self._execute(transaction, running)
        others = iter(outcomes)
        return Counted([error or next(others) for error in early_errors], unwritten)

    def _execute(
        self, transaction: "BatchTransaction", running: "ParallelCalls"
    ) -> list[Allowance | GatewayError]:
        db = database()
        db.begin()
        outcomes = transaction.execute(self.worker)
        if changes := running.changes():
            limiter_sql.write_leases(self.worker, changes)
        db.commit()
        running.apply(changes)
        self._remember_full(transaction.full)
        return outcomes

    def renew_leases(self) -> None:
        """Record that this worker is alive, while it runs calls that other workers count."""
        if self._running and time.monotonic() - self._renewed_at > RENEW_SECONDS:
            limiter_sql.renew_leases(self.worker)
            self._renewed_at = time.monotonic()

    def _check_full_windows(
        self, requests: Sequence[Buckets], running: "ParallelCalls", now: float
    ) -> Sequence[GatewayError | Locked | None]:
        """Return an error for each request that meets a full window.

        Requests with the same buckets have the same result, but each needs an exception of its own.
        """
        refused = {
            buckets for buckets in set(requests) if self._check_full_window(buckets, running, now)
        }
        if not refused:
            return [None] * len(requests)
        return [
            self._check_full_window(buckets, running, now) if buckets in refused else None
            for buckets in requests
        ]

    def _check_full_window(
        self, buckets: Buckets, running: "ParallelCalls", now: float
    ) -> GatewayError | None:
        for bucket in buckets:
            if bucket.parallel is not None and running.count(bucket.subject) >= bucket.parallel:
                return limit_error(bucket, None, 1.0)
            total = self._full.get(bucket.key)
            if (
                total
                and now < total.ends_at
                and (unit := exhausted_limit(bucket, total.requests, total.tokens))
            ):
                return limit_error(bucket, unit, total.ends_at - now)
        return None

    def _remember_full(self, full: dict[WindowKey, Total]) -> None:
        if len(self._full) > MAX_FULL_WINDOWS:
            self._full.clear()
        self._full |= full


class ParallelCalls:
    """The number of running calls of each subject, with the uncommitted changes of a batch."""

    def __init__(self, before: Counter[str], usages: Sequence[Usage]) -> None:
        self._before = before
        self._change: Counter[str] = Counter()
        for buckets, _ in usages:
            for bucket in buckets:
                if bucket.parallel is not None:
                    self._change[bucket.subject] -= 1

    def count(self, subject: str) -> int:
        return self._before[subject] + self._change[subject]

    def start(self, subject: str) -> None:
        self._change[subject] += 1

    def changes(self) -> dict[str, int]:
        """Return the new number of calls of each subject whose number has changed."""
        return {subject: max(self.count(subject), 0) for subject, by in self._change.items() if by}

    def has_changed(self) -> bool:
        return bool(self._change)

    def apply(self, changes: Mapping[str, int]) -> None:
        for subject, calls in changes.items():
            if calls:
                self._before[subject] = calls
            else:
                del self._before[subject]


class WindowState:
    """The counts of one window during a batch."""

    __slots__ = ("granted", "requests", "total")

    def __init__(self, total: Total, added: int) -> None:
        self.total = total
        self.requests = total.requests - added
        """The requests before this batch, and those of this batch that have been granted."""
        self.granted = 0

    def grant(self) -> None:
        self.requests += 1
        self.granted += 1


class BatchTransaction:
    """One transaction: increments the windows, decides on each request, subtracts refused ones."""

    def __init__(
        self, requests: Sequence[Buckets], usages: Sequence[Usage], running: ParallelCalls
    ) -> None:
        self._requests = requests
        self._different = Counter(requests)
        self._request_counts = _count_requests(self._different)
        self._token_sums = _sum_tokens(usages)
        self._keys = sorted(self._request_counts.keys() | self._token_sums.keys())
        self._windows: dict[WindowKey, WindowState] = {}
        self._elsewhere: dict[str, int] = {}
        self._running = running
        self.full: dict[WindowKey, Total] = {}

    def is_empty(self) -> bool:
        """Whether nothing is counted: also if all usage is of calls with limits of requests."""
        return not (self._requests or self._token_sums or self._running.has_changed())

    def execute_at_once(self) -> list[Allowance | GatewayError] | None:
        """Count all of them in one statement, if none can be refused; otherwise None.

        Not with limits of parallel requests, which need more statements.
        """
        if not database().counts_at_once or self._running.has_changed() or self._subjects():
            return None
        counts, tokens, limits = self._request_counts, self._token_sums, _limits(self._different)
        totals = limiter_sql.add_within_limits(
            [(*key, counts[key], tokens[key], *limits.get(key, (None, None))) for key in self._keys]
        )
        return None if totals is None else self._decide(totals)

    def execute(self, worker: str) -> list[Allowance | GatewayError]:
        """Return the result for each request. Raises database errors; then nothing is counted."""
        counts = self._request_counts
        totals = limiter_sql.add([(*key, counts[key], self._token_sums[key]) for key in self._keys])
        if subjects := self._subjects():
            self._elsewhere = limiter_sql.calls_elsewhere(worker, sorted(subjects))
        outcomes = self._decide(totals)
        refused = [
            (window.total.row, counts[key] - window.granted)
            for key, window in self._windows.items()
            if counts[key] > window.granted
        ]
        if refused:
            limiter_sql.subtract(sorted(refused))
        return outcomes

    def _subjects(self) -> set[str]:
        """Those with a limit of parallel requests."""
        return {
            bucket.subject
            for buckets in self._different
            for bucket in buckets
            if bucket.parallel is not None
        }

    def _decide(self, totals: Mapping[WindowKey, Total]) -> list[Allowance | GatewayError]:
        counts = self._request_counts
        self._windows = {key: WindowState(total, counts[key]) for key, total in totals.items()}
        return [self._grant(buckets) for buckets in self._requests]

    def _grant(self, buckets: Buckets) -> Allowance | GatewayError:
        for bucket in buckets:
            if error := self._check(bucket, self._windows[bucket.key]):
                return error
        for bucket in buckets:
            self._windows[bucket.key].grant()
            if bucket.parallel is not None:
                self._running.start(bucket.subject)
        return self._allowance(buckets)

    def _check(self, bucket: Bucket, window: WindowState) -> GatewayError | None:
        if bucket.parallel is not None:
            running = self._running.count(bucket.subject) + self._elsewhere.get(bucket.subject, 0)
            return limit_error(bucket, None, 1.0) if running >= bucket.parallel else None
        total = window.total
        if unit := exhausted_limit(bucket, window.requests, total.tokens):
            self.full[bucket.key] = total._replace(requests=window.requests)
            return limit_error(bucket, unit, total.resets_in)
        return None

    def _allowance(self, buckets: Buckets) -> Allowance:
        """Return what remains after this request: the smallest remainder of all windows."""
        requests: Remaining | None = None
        tokens: Remaining | None = None
        for bucket in buckets:
            window = self._windows[bucket.key]
            if bucket.requests is not None:
                remaining = bucket.requests - window.requests
                if requests is None or remaining < requests.remaining:
                    requests = Remaining(bucket.requests, remaining, window.total.resets_in)
            if bucket.tokens is not None:
                remaining = bucket.tokens - window.total.tokens
                if tokens is None or remaining < tokens.remaining:
                    tokens = Remaining(bucket.tokens, remaining, window.total.resets_in)
        return Allowance(requests, tokens)


def _windows(requests: Sequence[Buckets], usages: Sequence[Usage]) -> list[WindowKey]:
    """Return the windows in which these requests and this usage count, sorted."""
    counted = {*requests, *(usage.buckets for usage in usages)}
    return sorted({bucket.key for buckets in counted for bucket in buckets})


def _count_requests(requests: Mapping[Buckets, int]) -> Counter[WindowKey]:
    counts: Counter[WindowKey] = Counter()
    for buckets, times in requests.items():
        for bucket in buckets:
            counts[bucket.key] += times
    return counts


def _limits(requests: Iterable[Buckets]) -> dict[WindowKey, tuple[int | None, int | None]]:
    """Return the limits of each window. One SELECT has read them all, so they don't differ."""
    return {
        bucket.key: (bucket.requests, bucket.tokens) for buckets in requests for bucket in buckets
    }


def _sum_tokens(usages: Iterable[Usage]) -> Counter[WindowKey]:
    sums: Counter[WindowKey] = Counter()
    for buckets, tokens in usages:
        for bucket in buckets:
            if bucket.tokens is not None:
                sums[bucket.key] += tokens
    return sums
