"""One batch: requests to judge and calls that have ended, in the admission thread."""

import logging
from typing import NamedTuple

from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.admission.database import close
from keyportal.gateway.admission.limiter import RateLimiter, Spent
from keyportal.gateway.admission.limits import Allowance
from keyportal.gateway.admission.verdict import Reading, Verdict, read
from keyportal.gateway.errors import AddressNotAllowed, GatewayError
from keyportal.keys.rules.permissions import is_within

logger = logging.getLogger(__name__)


class Admitted(NamedTuple):
    """A verdict, and what is left of the limits after this request, if there are any."""

    verdict: Verdict
    allowance: Allowance | None = None


Outcome = Admitted | GatewayError | None


class Batch(NamedTuple):
    """Requests to judge, and what ended calls have used."""

    asked: list[tuple[bytes, bool, str | None, bool]]
    """Digest, whether it counts, the address, and whether it holds a place."""
    spent: list[Spent]


def work(batch: Batch, catalog: Snapshot, ledger: RateLimiter) -> tuple[list[Outcome], Snapshot]:
    """The outcome for each request of the batch, in order: judged in one SELECT, then counted."""
    reading = Reading({}, catalog)
    if batch.asked:
        reading = read(list({digest for digest, *_ in batch.asked}), catalog)
    outcomes: list[Outcome] = []
    counted: list[tuple[int, Verdict]] = []
    for digest, is_counted, address, holds_place in batch.asked:
        verdict = reading.verdicts.get(digest)
        if verdict is None:
            outcomes.append(None)
        elif verdict.networks and not _may_come_from(address, verdict):
            outcomes.append(AddressNotAllowed(address))
        else:
            verdict = verdict if holds_place else verdict.without_place()
            if is_counted and verdict.accounts:
                counted.append((len(outcomes), verdict))
            outcomes.append(Admitted(verdict))
    if counted or batch.spent:
        _count(outcomes, counted, batch.spent, reading.now, ledger)
    _keep_alive(ledger)
    return outcomes, reading.catalog


def _may_come_from(address: str | None, verdict: Verdict) -> bool:
    return address is None or is_within(address, verdict.networks)


def _keep_alive(ledger: RateLimiter) -> None:
    """What has been counted by now stays counted, whatever becomes of this."""
    try:
        ledger.keep_alive()
    except Exception as error:
        logger.warning("Leases not renewed: %s: %s", type(error).__name__, error)
        close()


def _count(
    outcomes: list[Outcome],
    counted: list[tuple[int, Verdict]],
    spent: list[Spent],
    now: float,
    ledger: RateLimiter,
) -> None:
    """Write down what is used, and into `outcomes`, at these positions, who may use it."""
    try:
        granted = ledger.post([verdict.accounts for _, verdict in counted], spent, now)
    except BaseException:
        close()  # It may have broken halfway, and would stay broken for ever.
        raise
    for (position, verdict), answer in zip(counted, granted, strict=True):
        if isinstance(answer, GatewayError):
            outcomes[position] = answer
        else:
            outcomes[position] = Admitted(verdict, answer)
