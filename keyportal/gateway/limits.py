"""Limits, exact over all workers and hosts: one counter in the database for each window.

This runs in the admission thread, for a batch of requests at once. All windows of the batch are
counted up in one statement, whose row locks make the totals true; who then turns out to be too
many is refused, and taken back in the same transaction. So a window never holds more than its
limit, and nobody is refused for the sake of somebody who was refused.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from keyportal.activity.windows import Kind, key_subject, team_subject
from keyportal.asgi_types import Headers
from keyportal.gateway import counters
from keyportal.gateway.counters import Total
from keyportal.gateway.database import database
from keyportal.gateway.errors import GatewayError, InsufficientQuota, RateLimitExceeded
from keyportal.teams.limits import UNLIMITED, Limits

HEARTBEAT_SECONDS = 2.0
MAX_KNOWN = 10_000


Key = tuple[str, int]
"""A subject and the kind of a window."""


class Account(NamedTuple):
    """A window that a request counts in, and the most that it may hold. None: no limit."""

    key: Key
    requests: int | None = None
    tokens: int | None = None
    parallel: int | None = None

    @property
    def subject(self) -> str:
        return self.key[0]


Accounts = tuple[Account, ...]


@lru_cache(8192)
def accounts_of(subject: str, limits: Limits) -> Accounts:
    """Those of one key or team; none where nothing is limited."""
    found = (
        Account((subject, Kind.EVER), parallel=limits.parallel_requests),
        Account((subject, Kind.MINUTE), limits.requests_per_minute, limits.tokens_per_minute),
        Account((subject, Kind.DAY), limits.requests_per_day, limits.tokens_per_day),
        Account((subject, Kind.MONTH), limits.requests_per_month, limits.tokens_per_month),
    )
    return tuple(one for one in found if one[1:] != (None, None, None))


def accounts(public_id: str, limits: Limits, team_slug: str, roof: Limits) -> Accounts:
    """A key's own, and those of its team, which are a roof over all its keys."""
    own = accounts_of(key_subject(public_id), limits) if limits != UNLIMITED else ()
    return own + accounts_of(team_subject(team_slug), roof) if roof != UNLIMITED else own


class Left(NamedTuple):
    """What a window still holds for requests, or for tokens."""

    limit: int
    left: int
    resets_in: float
    """Seconds."""


class Allowance(NamedTuple):
    """What an admitted request tells its caller: the tightest of its windows, key's or team's."""

    requests: Left | None
    tokens: Left | None

    def headers(self) -> Headers:
        """As OpenAI names and writes them."""
        headers: Headers = []
        for names, left in ((_REQUESTS, self.requests), (_TOKENS, self.tokens)):
            if left is not None:
                limit, remaining, reset = names
                headers += (
                    (limit, b"%d" % left.limit),
                    (remaining, b"%d" % max(left.left, 0)),
                    (reset, duration(left.resets_in).encode()),
                )
        return headers


def _names(what: bytes) -> tuple[bytes, bytes, bytes]:
    return (
        b"x-ratelimit-limit-" + what,
        b"x-ratelimit-remaining-" + what,
        b"x-ratelimit-reset-" + what,
    )


_REQUESTS, _TOKENS = _names(b"requests"), _names(b"tokens")


class Spent(NamedTuple):
    """What a call used, now that it is over; its place among the running is given back."""

    accounts: Accounts
    tokens: int


def duration(seconds: float) -> str:
    """`12ms`, `7.5s`, `1m0s` or `23h0m5s`: what OpenAI's headers and their readers use."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 1000) / 1000:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


class Ledger:
    """One worker's hand on the counters. Every method runs in the admission thread."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        # Calls that run here, of subjects that limit them.
        self._running: Counter[str] = Counter()
        # Windows that are full, and until when. A committed count never falls, so this stays true.
        self._full: dict[Key, Total] = {}
        self._renewed_at = 0.0

    def post(
        self, asked: Sequence[Accounts], spent: Sequence[Spent], now: float
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
        posting = Posting(counted, spent, running)
        here = database()
        here.begin()
        outcomes = iter(posting.decide(self.worker))
        if changed := running.changed():
            counters.write_leases(self.worker, changed)
        here.commit()
        running.apply(changed)
        self._note_full(posting.full)
        return [refused or next(outcomes) for refused in early]

    def keep_alive(self) -> None:
        """Say that this worker lives, while it has calls that others count."""
        if self._running and time.monotonic() - self._renewed_at > HEARTBEAT_SECONDS:
            counters.renew_leases(self.worker)
            self._renewed_at = time.monotonic()

    def _refuse_all_early(
        self, asked: Sequence[Accounts], running: "Running", now: float
    ) -> list[GatewayError | None]:
        """All that ask of the same windows meet the same; each refusal is one's own to raise."""
        met = {one: self._refuse_early(one, running, now) for one in set(asked)}
        return [met[one] and self._refuse_early(one, running, now) for one in asked]

    def _refuse_early(self, asked: Accounts, running: "Running", now: float) -> GatewayError | None:
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


class Held:
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


class Posting:
    """One transaction: what it adds, who of those that asked is granted, what is taken back."""

    def __init__(self, asked: Sequence[Accounts], spent: Sequence[Spent], running: Running) -> None:
        self._asked = asked
        self._requests = _count_requests(asked)
        self._tokens = _sum_tokens(spent)
        self._held: dict[Key, Held] = {}
        self._elsewhere: dict[str, int] = {}
        self._running = running
        self.full: dict[Key, Total] = {}

    def decide(self, worker: str) -> list[Allowance | GatewayError]:
        """Raises whatever the database raises; then nothing has happened."""
        requests = self._requests
        keys = sorted(requests.keys() | self._tokens.keys())
        totals = counters.add([(*key, requests[key], self._tokens[key]) for key in keys])
        self._held = {key: Held(total, requests[key]) for key, total in totals.items()}
        shared = {a.subject for one in set(self._asked) for a in one if a.parallel is not None}
        if shared:
            self._elsewhere = counters.calls_elsewhere(worker, sorted(shared))
        outcomes = [self._grant(one) for one in self._asked]
        back = [
            (held.total.row, requests[key] - held.granted)
            for key, held in self._held.items()
            if requests[key] > held.granted
        ]
        if back:
            counters.take_back(sorted(back))
        return outcomes

    def _grant(self, asked: Accounts) -> Allowance | GatewayError:
        for account in asked:
            if error := self._refusal(account, self._held[account.key]):
                return error
        for account in asked:
            self._held[account.key].grant()
            if account.parallel is not None:
                self._running.begin(account.subject)
        return self._allowance(asked)

    def _refusal(self, account: Account, held: Held) -> GatewayError | None:
        if account.parallel is not None:
            running = self._running.of(account.subject) + self._elsewhere.get(account.subject, 0)
            return refusal(account, None, 1.0) if running >= account.parallel else None
        total = held.total
        if short := shortage(account, held.requests, total.tokens):
            self.full[account.key] = total._replace(requests=held.requests)
            return refusal(account, short, total.resets_in)
        return None

    def _allowance(self, asked: Accounts) -> Allowance:
        """After this request; of several windows, the one that holds the least."""
        requests: Left | None = None
        tokens: Left | None = None
        for key, most_requests, most_tokens, _ in asked:
            held = self._held[key]
            if most_requests is not None:
                left = most_requests - held.requests
                if requests is None or left < requests.left:
                    requests = Left(most_requests, left, held.total.resets_in)
            if most_tokens is not None:
                left = most_tokens - held.total.tokens
                if tokens is None or left < tokens.left:
                    tokens = Left(most_tokens, left, held.total.resets_in)
        return Allowance(requests, tokens)


def _count_requests(asked: Sequence[Accounts]) -> Counter[Key]:
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


def shortage(account: Account, requests: int, tokens: int) -> str | None:
    """Which of the account's two limits is reached by what its window holds, if one is."""
    if account.requests is not None and requests >= account.requests:
        return "requests"
    if account.tokens is not None and tokens >= account.tokens:
        return "tokens"
    return None


def refusal(account: Account, short: str | None, resets_in: float) -> GatewayError:
    """The error for one who is too many; `short` is requests or tokens, or None for parallel."""
    whose = "this API key" if account.subject.startswith(key_subject("")) else "this API key's team"
    if short is None:
        text = f"Rate limit reached: {whose} may run {account.parallel} requests at one time."
        return RateLimitExceeded(f"{text} Try again when one has ended.", "requests", 1.0, [])
    limit: int = getattr(account, short)
    left = Left(limit, 0, resets_in)
    told = Allowance(left if short == "requests" else None, left if short == "tokens" else None)
    kind = Kind(account.key[1])
    each = kind.label.lower()
    if kind == Kind.MINUTE:
        text = f"Rate limit reached: {whose} may use {limit} {short} per {each}."
        text = f"{text} Try again in {duration(resets_in)}."
        return RateLimitExceeded(text, short, resets_in, told.headers())
    text = f"Quota used up: {whose} may use {limit} {short} per {each}, and has."
    return InsufficientQuota(f"{text} It is renewed in {duration(resets_in)}.", told.headers())
