"""What the management API can do: each operation, and what must hold before it is done.

An operation is declared once, by a decorator on its function. From that come its address, the check
of scope and role, the reading of parameters and body, its transaction, and its page in the OpenAPI
document, so that none of these can say something else than the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django.db import transaction
from django.http import HttpRequest
from msgspec import Struct

from keyportal.api.framework import parsing
from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.problems import Problem
from keyportal.api.scopes import Scope
from keyportal.audit.models import acting_via
from keyportal.keys import keystring
from keyportal.teams.models import Role

READS = "GET"
PATH_PARTS = {
    "id": keystring.PUBLIC_ID,
    "slug": r"[a-z0-9-]{1,64}",
    "username": r"[\w.@+-]{1,150}",
}
"""What each `{parameter}` of a path may be, as a regular expression; the operation finds out
whether there is one by that name. None has a character that a database can't hold."""
B = TypeVar("B")
Q = TypeVar("Q")


@dataclass(frozen=True)
class Request(Generic[B, Q]):
    """A request that has passed every check: who asks, with what."""

    caller: Caller
    body: B
    query: Q


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    """Beneath `/api/v1/`, with `{parameters}` of `PATH_PARTS`."""
    act: Callable[..., Any]
    answer: Any = None
    """The type of what it answers with; None: nothing, with 204."""
    status: int = 200
    scope: Scope | None = None
    more: Mapping[Scope, str] = field(default_factory=dict)
    """What it needs for some of what it does, and for what; it asks for these itself."""
    role: Role = Role.VIEWER
    body: Any = None
    query: type[Struct] = parsing.NoQuery
    refuses: tuple[type[Problem], ...] = ()
    """Beyond what every operation may be refused for."""

    @property
    def summary(self) -> str:
        return (self.act.__doc__ or "").strip().partition("\n")[0].rstrip(".")

    @property
    def description(self) -> str:
        return " ".join((self.act.__doc__ or "").strip().partition("\n")[2].split())

    def carry_out(self, request: HttpRequest, caller: Caller, **parts: str) -> Any:
        """Returns what it answers with. Raises the `Problem` for which it was not done."""
        caller.require(self.scope, self.role)
        query = parsing.query(request, self.query)
        body = parsing.body(request, self.body) if self.body else None
        asked = Request(caller, body, query)
        if self.method == READS:
            return self.act(asked, **parts)
        with acting_via(f"management key {caller.key}"), transaction.atomic():
            caller.hold_key()
            answer = self.act(asked, **parts)
        if isinstance(answer, Problem):
            # A refusal that is returned and not raised leaves its trace in the audit.
            raise answer
        return answer


@dataclass
class Operations:
    """Those of one resource, in the order in which they are declared."""

    found: list[Operation] = field(default_factory=list)

    def get(self, path: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._declare("GET", path, more)

    def post(self, path: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._declare("POST", path, more)

    def patch(self, path: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._declare("PATCH", path, more)

    def delete(self, path: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        return self._declare("DELETE", path, {"status": 204, **more})

    def _declare(
        self, method: str, path: str, more: dict[str, Any]
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def declare(act: Callable[..., Any]) -> Callable[..., Any]:
            self.found.append(Operation(method, path, act, **more))
            return act

        return declare
