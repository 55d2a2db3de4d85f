"""The limits of a key and its team as buckets, and what a response says about them."""

import math
from functools import lru_cache
from typing import NamedTuple

from keyportal.gateway.errors import GatewayError, InsufficientQuota, RateLimitExceeded
from keyportal.http.types import Headers
from keyportal.teams.limits import UNLIMITED, Limits
from keyportal.usage.models import Kind, key_subject, team_subject

WindowKey = tuple[str, int]
"""The subject of a window and its kind."""


class Bucket(NamedTuple):
    """A window that requests are counted in, and its limits. None: no limit."""

    key: WindowKey
    requests: int | None = None
    tokens: int | None = None
    parallel: int | None = None

    @property
    def subject(self) -> str:
        return self.key[0]


Buckets = tuple[Bucket, ...]


@lru_cache(8192)
def _subject_buckets(subject: str, limits: Limits) -> Buckets:
    """Return the buckets of one key or team; empty without limits."""
    buckets = (
        Bucket((subject, Kind.EVER), parallel=limits.parallel_requests),
        Bucket((subject, Kind.MINUTE), limits.requests_per_minute, limits.tokens_per_minute),
        Bucket((subject, Kind.DAY), limits.requests_per_day, limits.tokens_per_day),
        Bucket((subject, Kind.MONTH), limits.requests_per_month, limits.tokens_per_month),
    )
    return tuple(bucket for bucket in buckets if bucket[1:] != (None, None, None))


def buckets_for(public_id: str, limits: Limits, team_slug: str, team_limits: Limits) -> Buckets:
    """Return the buckets of a key, and those of its team, which all of its keys share."""
    own = _subject_buckets(key_subject(public_id), limits) if limits != UNLIMITED else ()
    if team_limits == UNLIMITED:
        return own
    return own + _subject_buckets(team_subject(team_slug), team_limits)


class Remaining(NamedTuple):
    """How many requests, or how many tokens, remain in a window."""

    limit: int
    remaining: int
    resets_in: float
    """Seconds."""


class Allowance(NamedTuple):
    """What remains after an admitted request: the smallest remainder of the key's and the team's
    windows."""

    requests: Remaining | None
    tokens: Remaining | None

    def headers(self) -> Headers:
        """Return the headers of OpenAI's API."""
        headers: Headers = []
        for names, rest in ((_REQUESTS, self.requests), (_TOKENS, self.tokens)):
            if rest is not None:
                limit, remaining, reset = names
                headers += (
                    (limit, b"%d" % rest.limit),
                    (remaining, b"%d" % max(rest.remaining, 0)),
                    (reset, format_duration(rest.resets_in).encode()),
                )
        return headers


def _header_names(unit: bytes) -> tuple[bytes, bytes, bytes]:
    return (
        b"x-ratelimit-limit-" + unit,
        b"x-ratelimit-remaining-" + unit,
        b"x-ratelimit-reset-" + unit,
    )


_REQUESTS, _TOKENS = _header_names(b"requests"), _header_names(b"tokens")


@lru_cache(256)  # All requests of a batch have the same times.
def format_duration(seconds: float) -> str:
    """Return `12ms`, `7.5s`, `1m0s` or `23h0m5s`: the format of OpenAI's headers."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{math.ceil(seconds * 1000) / 1000:g}s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def exhausted_limit(bucket: Bucket, requests: int, tokens: int) -> str | None:
    """Return which limit of the bucket these counts reach: requests, tokens or None."""
    if bucket.requests is not None and requests >= bucket.requests:
        return "requests"
    if bucket.tokens is not None and tokens >= bucket.tokens:
        return "tokens"
    return None


def limit_error(bucket: Bucket, unit: str | None, resets_in: float) -> GatewayError:
    """Return the error for a request over a limit.

    `unit` is requests or tokens, or None for the limit of parallel requests.
    """
    owner = "this API key" if bucket.subject.startswith(key_subject("")) else "this API key's team"
    if unit is None:
        text = f"Rate limit reached: {owner} may run {bucket.parallel} parallel requests."
        return RateLimitExceeded(f"{text} Try again when one has ended.", "requests", 1.0, [])
    limit: int = getattr(bucket, unit)
    rest = Remaining(limit, 0, resets_in)
    allowance = Allowance(rest if unit == "requests" else None, rest if unit == "tokens" else None)
    kind = Kind(bucket.key[1])
    period = kind.label.lower()
    if kind == Kind.MINUTE:
        text = f"Rate limit reached: {owner} may use {limit} {unit} per {period}."
        text = f"{text} Try again in {format_duration(resets_in)}."
        return RateLimitExceeded(text, unit, resets_in, allowance.headers())
    text = f"Quota used up: {owner} may use {limit} {unit} per {period}, and has."
    text = f"{text} It is renewed in {format_duration(resets_in)}."
    return InsufficientQuota(text, allowance.headers())
