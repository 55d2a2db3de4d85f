"""Operations of the management API, and what is checked before one is executed.

An operation is declared once, by a decorator on its function. The declaration gives its path, the
check of scope and role, the parsing of parameters and body, its transaction, and its entry in the
OpenAPI document, so that these can't contradict each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django.http import HttpRequest
from msgspec import Struct

from keyportal.api.framework import parsing
from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.problems import Problem
from keyportal.api.scopes import Scope
from keyportal.audit.source import acting_as, acting_via
from keyportal.keys import keystring
from keyportal.teams.models import Role

READ_METHOD = "GET"
PATH_PARAMETERS = {
    "account": r"[a-z0-9-]{1,40}",
    "id": keystring.PUBLIC_ID,
    "invitation": r"[1-9][0-9]{0,17}",
    "server": r"[1-9][0-9]{0,17}",
    "slug": r"[a-z0-9-]{1,64}",
    "username": r"[\w.@+-]{1,150}",
}
"""A regular expression for each `{parameter}` of a path. The operation checks whether the object
exists. None of them matches a character that a database can't store."""
Handler = Callable[..., Any]
B = TypeVar("B")
Q = TypeVar("Q")


@dataclass(frozen=True)
class Request(Generic[B, Q]):
    """A request that has passed authentication, authorisation and validation."""

    caller: Caller
    body: B
    query: Q


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    """Below `/api/v1/`, with `{parameters}` of `PATH_PARAMETERS`."""
    handler: Handler
    response: Any = None
    """The type of the response body; None: no body, with status 204."""
    status: int = 200
    scope: Scope | None = None
    extra_scopes: Mapping[Scope, str] = field(default_factory=dict)
    """Scopes that it needs for a part of what it does, and which part. The handler checks them."""
    role: Role = Role.VIEWER
    body: Any = None
    needs_body: bool = True
    """False if a request without a body means a body without fields."""
    query: type[Struct] = parsing.NoQuery
    errors: tuple[type[Problem], ...] = ()
    """In addition to the errors that every operation may give."""

    @property
    def summary(self) -> str:
        return (self.handler.__doc__ or "").strip().partition("\n")[0].rstrip(".")

    @property
    def description(self) -> str:
        return " ".join((self.handler.__doc__ or "").strip().partition("\n")[2].split())

    def execute(self, http_request: HttpRequest, caller: Caller, **parameters: str) -> Any:
        """Check, parse and run it. Returns the response body; raises a `Problem`."""
        caller.require(self.scope, self.role)
        query = parsing.parse_query(http_request, self.query)
        body = self._parse_body(http_request)
        if self.method == READ_METHOD:
            return self.handler(Request(caller, body, query), **parameters)
        with (
            acting_via(f"management key {caller.key}"),
            acting_as(caller.user, caller.address),
            caller.locked() as current,
        ):
            # Again: the scopes and the role may be others than before the wait for the lock.
            current.require(self.scope, self.role)
            result = self.handler(Request(current, body, query), **parameters)
        if isinstance(result, Problem):
            # A problem that the handler returns, not raises, keeps what it wrote to the audit log.
            raise result
        return result

    def _parse_body(self, http_request: HttpRequest) -> Any:
        is_empty = (http_request.META.get("CONTENT_LENGTH") or "0") == "0"
        if self.body and is_empty and not self.needs_body:
            return self.body()
        return parsing.parse_body(http_request, self.body) if self.body else None


@dataclass
class Operations:
    """The operations of one resource, in the order of declaration."""

    declared: list[Operation] = field(default_factory=list)

    def get(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._declare("GET", path, options)

    def post(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._declare("POST", path, options)

    def patch(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._declare("PATCH", path, options)

    def delete(self, path: str, **options: Any) -> Callable[[Handler], Handler]:
        return self._declare("DELETE", path, {"status": 204, **options})

    def _declare(
        self, method: str, path: str, options: dict[str, Any]
    ) -> Callable[[Handler], Handler]:
        def declare(handler: Handler) -> Handler:
            self.declared.append(Operation(method, path, handler, **options))
            return handler

        return declare
