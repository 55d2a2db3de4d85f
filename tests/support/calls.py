"""Active calls, without a gateway around them."""

import asyncio
from typing import Any, cast

from keyportal.gateway.admission.batch import Admitted
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.limits import Allowance, Buckets
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.calls import Call
from keyportal.http.types import Headers
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import NamePatterns
from tests.support.asgi import scope


class FakeAdmission:
    """Stands in for admission: records completed calls, and is done at once."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.completed: list[tuple[Buckets, int]] = []

    def complete(self, buckets: Buckets, tokens: int) -> "asyncio.Future[None]":
        self.completed.append((buckets, tokens))
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


def make_call(
    verdict: Verdict,
    *,
    digest: bytes = b"d" * 32,
    allowance: Allowance | None = None,
    admission: object = None,
    headers: Headers | None = None,
    **more: Any,
) -> Call:
    """A call with this verdict; `more` is added to the scope. Must run inside a task."""
    request = scope(headers=headers, **{"keyportal.request_id": "req_1", **more})
    admitted = Admitted(verdict, allowance)
    return Call(digest, admitted, request, cast("Admission", admission or FakeAdmission()))


def make_verdict(key: ApiKey) -> Verdict:
    """The verdict on this key, which has no limits."""
    return Verdict(
        key.current_secret.pk,
        key.public_id,
        key.team_id,
        NamePatterns(key.allowed_models) if key.allowed_models else None,
        key.team.slug,
        key.owner_id,
    )
