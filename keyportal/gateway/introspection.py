"""What a key may know of itself: `GET /v1/key`. Asked for rarely, so it may take the ORM's time.

That time is a thread's, one at a time in a worker, so nobody else's verdict or answer waits for it.
"""

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import Error, connection

from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.errors import DatabaseUnavailable, InvalidKey
from keyportal.gateway.relay.answer import Answer, json_answer
from keyportal.keys.models import ApiKey, Secret
from keyportal.usage.limit_status import LimitUse, limit_uses
from keyportal.usage.models import key_subject, team_subject

SECONDS = 2.0

logger = logging.getLogger(__name__)


class Introspection:
    """One per worker; made after the fork."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="introspection")

    async def answer(self, verdict: Verdict, models: list[str]) -> Answer:
        """For the key that asks; `models` are the names that it can call now.

        Raises `InvalidKey` where it went meanwhile, or `DatabaseUnavailable`.
        """
        reading = asyncio.get_running_loop().run_in_executor(self._thread, _read, verdict)
        try:
            found = await asyncio.wait_for(reading, SECONDS)
        except (Error, TimeoutError) as error:
            logger.warning("A key not described: %s: %s", type(error).__name__, error)
            raise DatabaseUnavailable from None
        answer = json_answer({**found, "models": models})
        # What a proxy or a browser keeps of it would be somebody else's, or out of date.
        answer.headers.append((b"cache-control", b"no-store"))
        return answer

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _read(verdict: Verdict) -> dict[str, Any]:
    try:
        secret = Secret.objects.select_related("key__team").get(pk=verdict.secret_id)
        return _described(secret.key, secret)
    except Secret.DoesNotExist:
        raise InvalidKey from None
    finally:
        connection.close()  # Kept for a caller who may never come again, it would go stale.


def _described(key: ApiKey, secret: Secret) -> dict[str, Any]:
    ends = [end for end in (key.expires_at, secret.expires_at) if end is not None]
    permissions = key.permissions
    return {
        "object": "key",
        "public_id": key.public_id,
        "name": key.name,
        "team": key.team.slug,
        # The old secret of a rotation may end before its key.
        "expires_at": min(ends, default=None),
        "lasts_until_used": secret.lasts_until_used,
        "permissions": {
            "models": permissions.models,
            "endpoints": permissions.endpoints.value,
            "networks": permissions.networks,
        },
        "limits": [
            *_limits("key", limit_uses(key_subject(key.public_id), key.limits)),
            *_limits("team", limit_uses(team_subject(key.team.slug), key.team.limits)),
        ],
    }


def _limits(whose: str, found: list[LimitUse]) -> Iterator[dict[str, Any]]:
    """Only those that there are."""
    for use in found:
        if use.limit is not None:
            yield {
                "of": whose,
                "name": use.name,
                "limit": use.limit,
                "used": use.used,
                "remaining": max(use.limit - use.used, 0),
                "resets_at": use.resets_at,
            }
