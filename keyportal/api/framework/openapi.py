"""The OpenAPI document, made of the same declarations as the API itself."""

from functools import cache
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse

from keyportal.api.framework import problems
from keyportal.api.framework.operations import PATH_PARTS, Operation
from keyportal.api.framework.problems import MethodNotAllowed, Problem, ProblemDetails

Schema = dict[str, Any]
VERSION = "1.0.0"  # Of the API, and not of the product that it comes with.
# What any operation may be refused for, before it begins.
ALWAYS: tuple[type[Problem], ...] = (
    problems.BadRequest,
    problems.Unauthorized,
    problems.Forbidden,
    problems.MethodNotAllowed,
    problems.Slow,
    problems.TooLarge,
    problems.Invalid,
    problems.HTTPSRequired,
    problems.TooManyRequests,
    problems.InternalError,
    problems.Unavailable,
)
_REF = "#/components/schemas/{name}"
_HEADERS = {
    "X-Request-Id": {
        "description": "Finds the request in the operator's log.",
        "schema": {"type": "string"},
    }
}
_TOLD_WITH = {
    401: ["WWW-Authenticate"],
    405: ["Allow"],
    429: ["Retry-After"],
    503: ["Retry-After"],
}
_ABOUT = (
    "Looks after the API keys of a team. Send a management key, which admins of a team make in "
    "the portal, as `Authorization: Bearer`. It does what its scopes say and its owner could do in "
    "the portal at that moment. Every refusal is `application/problem+json` (RFC 9457)."
)


def document_of(operations: list[Operation]) -> Schema:
    types: dict[Any, None] = {ProblemDetails: None}
    for one in operations:
        types |= {kind: None for kind in (one.body, one.answer, one.query) if kind}
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    told = dict(zip(types, schemas, strict=True))
    paths: dict[str, Schema] = {}
    for one in operations:
        paths.setdefault(f"/api/v1/{one.path}", {})[one.method.lower()] = _told(
            one, told, components
        )
    queries = {one.query.__name__ for one in operations}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Keyportal management API", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"management_key": []}],
        "paths": paths,
        "components": {
            "schemas": {name: each for name, each in components.items() if name not in queries},
            "securitySchemes": {"management_key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _told(one: Operation, told: dict[Any, Schema], components: dict[str, Schema]) -> Schema:
    scopes = [f"Scope: `{one.scope}`."] if one.scope else []
    scopes += [f"Also `{scope}` {what}." for scope, what in one.more.items()]
    page: Schema = {
        "operationId": one.act.__name__,
        "tags": [one.path.partition("/")[0]],
        "summary": one.summary,
        "description": " ".join([one.description, *scopes]).strip(),
        "parameters": [*_parts(one), *_query(one, components)],
        "responses": _answers(one, told),
    }
    if one.body:
        content = {"application/json": {"schema": told[one.body]}}
        page["requestBody"] = {"required": True, "content": content}
    return page


def _parts(one: Operation) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{pattern}$"},
        }
        for name, pattern in PATH_PARTS.items()
        if f"{{{name}}}" in one.path
    ]


def _query(one: Operation, components: dict[str, Schema]) -> list[Schema]:
    properties: Schema = components[one.query.__name__].get("properties", {})
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


def _answers(one: Operation, told: dict[Any, Schema]) -> Schema:
    served: Schema = {"description": "Done.", "headers": dict(_HEADERS)}
    if one.answer:
        served["content"] = {"application/json": {"schema": told[one.answer]}}
    of_body = (problems.UnsupportedMediaType,) if one.body else ()
    refusals = {kind.status: kind for kind in (*ALWAYS, *of_body, *one.refuses)}
    return {str(one.status): served} | {
        str(status): _refusal(kind, told) for status, kind in sorted(refusals.items())
    }


def _refusal(kind: type[Problem], told: dict[Any, Schema]) -> Schema:
    content = {problems.CONTENT_TYPE: {"schema": told[ProblemDetails]}}
    headers = _HEADERS | {
        name: {"schema": {"type": "string"}} for name in _TOLD_WITH.get(kind.status, ())
    }
    return {"description": kind.title(), "headers": headers, "content": content}


def view(operations: list[Operation]) -> Any:
    """Serves the document to everybody: it says nothing about anybody."""

    @cache
    def document() -> bytes:
        return msgspec.json.encode(document_of(operations))

    def answer(request: HttpRequest) -> HttpResponse:
        if request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed("GET")
        return HttpResponse(document(), content_type="application/json")

    return answer
