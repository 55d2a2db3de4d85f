"""The OpenAPI document, generated from the declarations of the operations."""

from functools import cache
from typing import Any

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse

from keyportal.api.framework import problems
from keyportal.api.framework.operations import PATH_PARAMETERS, Operation
from keyportal.api.framework.problems import MethodNotAllowed, Problem, ProblemDetails

Schema = dict[str, Any]
VERSION = "1.0.0"  # Of the API, not of Keyportal.
# Errors that every operation may give before its handler runs.
COMMON_ERRORS: tuple[type[Problem], ...] = (
    problems.BadRequest,
    problems.Unauthorized,
    problems.Forbidden,
    problems.MethodNotAllowed,
    problems.SlowBody,
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
        "description": "The id of this request in the operator's log.",
        "schema": {"type": "string"},
    }
}
_ERROR_HEADERS = {
    401: ["WWW-Authenticate"],
    405: ["Allow"],
    429: ["Retry-After"],
    503: ["Retry-After"],
}
_DESCRIPTION = (
    "Manages the API keys of a team. Send a management key as `Authorization: Bearer`; admins of a "
    "team create one in the portal. It can do what its scopes allow and its owner may do in the "
    "portal at the time of the request. Every error is `application/problem+json` (RFC 9457)."
)


def build_document(operations: list[Operation]) -> Schema:
    types: dict[Any, None] = {ProblemDetails: None}
    for operation in operations:
        kinds = (operation.body, operation.response, operation.query)
        types |= {kind: None for kind in kinds if kind}
    schema_list, components = msgspec.json.schema_components(types, ref_template=_REF)
    schemas = dict(zip(types, schema_list, strict=True))
    paths: dict[str, Schema] = {}
    for operation in operations:
        path = paths.setdefault(f"/api/v1/{operation.path}", {})
        path[operation.method.lower()] = _operation_object(operation, schemas, components)
    queries = {operation.query.__name__ for operation in operations}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Keyportal management API",
            "version": VERSION,
            "description": _DESCRIPTION,
        },
        "servers": [{"url": settings.BASE_PATH or "/"}],
        "security": [{"management_key": []}],
        "paths": paths,
        "components": {
            "schemas": {name: each for name, each in components.items() if name not in queries},
            "securitySchemes": {"management_key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation_object(
    operation: Operation, schemas: dict[Any, Schema], components: dict[str, Schema]
) -> Schema:
    scopes = [f"Scope: `{operation.scope}`."] if operation.scope else []
    scopes += [f"Also `{scope}` {purpose}." for scope, purpose in operation.extra_scopes.items()]
    result: Schema = {
        "operationId": operation.handler.__name__,
        "tags": [operation.path.partition("/")[0]],
        "summary": operation.summary,
        "description": " ".join([operation.description, *scopes]).strip(),
        "parameters": [*_path_parameters(operation), *_query_parameters(operation, components)],
        "responses": _responses(operation, schemas),
    }
    if operation.body:
        content = {"application/json": {"schema": schemas[operation.body]}}
        result["requestBody"] = {"required": operation.needs_body, "content": content}
    return result


def _path_parameters(operation: Operation) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{pattern}$"},
        }
        for name, pattern in PATH_PARAMETERS.items()
        if f"{{{name}}}" in operation.path
    ]


def _query_parameters(operation: Operation, components: dict[str, Schema]) -> list[Schema]:
    properties: Schema = components[operation.query.__name__].get("properties", {})
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


def _responses(operation: Operation, schemas: dict[Any, Schema]) -> Schema:
    success: Schema = {"description": "Success.", "headers": dict(_HEADERS)}
    if operation.response:
        success["content"] = {"application/json": {"schema": schemas[operation.response]}}
    body_errors = (problems.UnsupportedMediaType,) if operation.body else ()
    errors = {kind.status: kind for kind in (*COMMON_ERRORS, *body_errors, *operation.errors)}
    return {str(operation.status): success} | {
        str(status): _error_response(kind, schemas) for status, kind in sorted(errors.items())
    }


def _error_response(kind: type[Problem], schemas: dict[Any, Schema]) -> Schema:
    content = {problems.CONTENT_TYPE: {"schema": schemas[ProblemDetails]}}
    headers = _HEADERS | {
        name: {"schema": {"type": "string"}} for name in _ERROR_HEADERS.get(kind.status, ())
    }
    return {"description": kind.title(), "headers": headers, "content": content}


def document_view(operations: list[Operation]) -> Any:
    """A view of the document. It is public: it holds nothing about a team or a person."""

    @cache
    def document() -> bytes:
        return msgspec.json.encode(build_document(operations))

    def view(request: HttpRequest) -> HttpResponse:
        if request.method not in {"GET", "HEAD"}:
            raise MethodNotAllowed("GET")
        return HttpResponse(document(), content_type="application/json")

    return view
