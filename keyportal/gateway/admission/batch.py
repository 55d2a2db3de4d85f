"""Processes one batch in the admission thread: requests to judge, and usage to record."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.admission.database import close
from keyportal.gateway.admission.limiter import Locked, RateLimiter, Usage
from keyportal.gateway.admission.limits import Allowance
from keyportal.gateway.admission.verdict import Verdict, VerdictResult, read_verdicts
from keyportal.gateway.errors import AddressNotAllowed, GatewayError
from keyportal.keys.rules.permissions import is_within

logger = logging.getLogger(__name__)


class Admitted(NamedTuple):
    """A verdict, and what remains of the limits after this request; None without limits."""

    verdict: Verdict
    allowance: Allowance | None = None


Outcome = Admitted | GatewayError | Locked | None
"""None: there is no valid key with this digest."""


class Batch(NamedTuple):
    """Requests to judge, and the usage of completed calls."""

    requests: list[tuple[bytes, bool, str | None, bool]]
    """Digest, whether it is counted, client's address, whether it takes a parallel slot."""
    usages: list[Usage]
    checks_locks: bool = False
    """Whether to look for windows that were locked and are free now."""


class BatchResult(NamedTuple):
    """What became of a batch."""

    outcomes: list[Outcome]
    """Of each request, in order."""
    catalog: Snapshot
    unwritten: Sequence[Usage] = ()
    """Usage that counts in windows that are locked."""
    is_window_free: bool = False
    """Whether a window that was locked is free now."""


def process(batch: Batch, catalog: Snapshot, limiter: RateLimiter) -> BatchResult:
    """All requests are judged with one SELECT, which waits for no lock, and then counted."""
    result = VerdictResult({}, catalog)
    if batch.requests:
        result = read_verdicts(list({digest for digest, *_ in batch.requests}), catalog)
    is_window_free = batch.checks_locks and _check_locks(limiter)
    outcomes: list[Outcome] = []
    unwritten: Sequence[Usage] = ()
    counted: list[tuple[int, Verdict]] = []
    for digest, is_counted, address, takes_slot in batch.requests:
        verdict = result.verdicts.get(digest)
        if verdict is None:
            outcomes.append(None)
        elif verdict.networks and not _is_address_allowed(address, verdict):
            outcomes.append(AddressNotAllowed(address))
        else:
            verdict = verdict if takes_slot else verdict.without_parallel_limits()
            if is_counted and verdict.buckets:
                counted.append((len(outcomes), verdict))
                outcomes.append(None)  # Until it is counted.
            else:
                outcomes.append(Admitted(verdict))
    if counted or batch.usages:
        unwritten = _count(outcomes, counted, batch.usages, result.now, limiter)
    _renew_leases(limiter)
    return BatchResult(outcomes, result.catalog, unwritten, is_window_free)


def _is_address_allowed(address: str | None, verdict: Verdict) -> bool:
    return address is None or is_within(address, verdict.networks)


def _check_locks(limiter: RateLimiter) -> bool:
    try:
        return limiter.locked.check()
    except BaseException:
        close()
        raise


def _renew_leases(limiter: RateLimiter) -> None:
    """A failure here doesn't fail the batch, which has been counted and committed already."""
    try:
        limiter.renew_leases()
    except Exception as error:
        logger.warning("Could not renew the leases: %s: %s", type(error).__name__, error)
        close()


def _count(
    outcomes: list[Outcome],
    counted: list[tuple[int, Verdict]],
    usages: list[Usage],
    now: float,
    limiter: RateLimiter,
) -> Sequence[Usage]:
    """Count these requests and this usage, and write the results into `outcomes`.

    `counted` has the requests' positions in `outcomes`. Returns the usage that must be written
    later.
    """
    try:
        results, unwritten = limiter.count([verdict.buckets for _, verdict in counted], usages, now)
    except BaseException:
        close()  # A connection that failed in a transaction would fail for ever.
        raise
    for (position, verdict), result in zip(counted, results, strict=True):
        if isinstance(result, Allowance):
            outcomes[position] = Admitted(verdict, result)
        else:
            outcomes[position] = result
    return unwritten
