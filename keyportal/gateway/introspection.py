"""`GET /v1/key`: a key's permissions, limits and usage. It is rarely called, so it uses the ORM.

The query runs in a thread of its own, one at a time in a worker, and delays no other request.
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

TIMEOUT_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Introspection:
    """One per worker; made after the fork."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="introspection")

    async def answer(self, verdict: Verdict, models: list[str]) -> Answer:
        """Return the response for this key; `models` are the names that it can call now.

        Raises `InvalidKey` if the key has been deleted meanwhile, or `DatabaseUnavailable`.
        """
        reading = asyncio.get_running_loop().run_in_executor(self._thread, _read, verdict)
        try:
            payload = await asyncio.wait_for(reading, TIMEOUT_SECONDS)
        except (Error, TimeoutError) as error:
            logger.warning("Could not read a key for /v1/key: %s: %s", type(error).__name__, error)
            raise DatabaseUnavailable from None
        answer = json_answer({**payload, "models": models})
        # A proxy or a browser that caches it could serve it to another client, or out of date.
        answer.headers.append((b"cache-control", b"no-store"))
        return answer

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _read(verdict: Verdict) -> dict[str, Any]:
    try:
        secret = Secret.objects.select_related("key__team").get(pk=verdict.secret_id)
        return _key_object(secret.key, secret)
    except Secret.DoesNotExist:
        raise InvalidKey from None
    finally:
        connection.close()  # Calls are rare, and an idle connection would break.


def _key_object(key: ApiKey, secret: Secret) -> dict[str, Any]:
    expiries = [expiry for expiry in (key.expires_at, secret.expires_at) if expiry is not None]
    permissions = key.permissions
    return {
        "object": "key",
        "public_id": key.public_id,
        "name": key.name,
        "team": key.team.slug,
        # The old secret of a rotation may expire before its key.
        "expires_at": min(expiries, default=None),
        "expires_when_new_used": secret.expires_when_new_used,
        "permissions": {
            "models": permissions.models,
            "endpoints": permissions.endpoints.value,
            "networks": permissions.networks,
        },
        "limits": [
            *_limits("key", limit_uses(key_subject(key.public_id), key.limits)),
            *_limits("team", limit_uses(team_subject(key.team.history_slug), key.team.limits)),
        ],
    }


def _limits(owner: str, uses: list[LimitUse]) -> Iterator[dict[str, Any]]:
    """Only the limits that are set."""
    for use in uses:
        if use.limit is not None:
            yield {
                "of": owner,
                "name": use.name,
                "limit": use.limit,
                "used": use.used,
                "remaining": max(use.limit - use.used, 0),
                "resets_at": use.resets_at,
            }
