"""The limits of a key and its team, as windows that requests count in; what they say to callers."""

import math
from functools import lru_cache
from typing import NamedTuple

from keyportal.gateway.errors import GatewayError, InsufficientQuota, RateLimitExceeded
from keyportal.http.types import Headers
from keyportal.teams.limits import UNLIMITED, Limits
from keyportal.usage.models import Kind, key_subject, team_subject

Key = tuple[str, int]
"""A subject and the kind of a window."""


class Bucket(NamedTuple):
    """A window that a request counts in, and the most that it may hold. None: no limit."""

    key: Key
    requests: int | None = None
    tokens: int | None = None
    parallel: int | None = None

    @property
    def subject(self) -> str:
        return self.key[0]


Buckets = tuple[Bucket, ...]


@lru_cache(8192)
def buckets_of(subject: str, limits: Limits) -> Buckets:
    """Those of one key or team; none where nothing is limited."""
    found = (
        Bucket((subject, Kind.EVER), parallel=limits.parallel_requests),
        Bucket((subject, Kind.MINUTE), limits.requests_per_minute, limits.tokens_per_minute),
        Bucket((subject, Kind.DAY), limits.requests_per_day, limits.tokens_per_day),
        Bucket((subject, Kind.MONTH), limits.requests_per_month, limits.tokens_per_month),
    )
    return tuple(one for one in found if one[1:] != (None, None, None))


def accounts(public_id: str, limits: Limits, team_slug: str, roof: Limits) -> Buckets:
    """A key's own, and those of its team, which are a roof over all its keys."""
    own = buckets_of(key_subject(public_id), limits) if limits != UNLIMITED else ()
    return own + buckets_of(team_subject(team_slug), roof) if roof != UNLIMITED else own


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


@lru_cache(256)  # All that are judged together are told of the same moment.
def duration(seconds: float) -> str:
    """`12ms`, `7.5s`, `1m0s` or `23h0m5s`: what OpenAI's headers and their readers use."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 1000) / 1000:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def shortage(account: Bucket, requests: int, tokens: int) -> str | None:
    """Which of the account's two limits is reached by what its window holds, if one is."""
    if account.requests is not None and requests >= account.requests:
        return "requests"
    if account.tokens is not None and tokens >= account.tokens:
        return "tokens"
    return None


def refusal(account: Bucket, short: str | None, resets_in: float) -> GatewayError:
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
