"""The models that a key can call, in OpenAI's form and in Anthropic's."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qs

from keyportal.catalog.snapshot import CatalogEntry
from keyportal.gateway.errors import BadRequest

DEFAULT_LIMIT = 20
MAX_LIMIT = 1000
MAX_PARAMETERS = 20
_NUMBER = re.compile(r"[0-9]{1,4}")


def openai_model(served: CatalogEntry) -> dict[str, object]:
    model: dict[str, object] = {
        "id": served.id,
        "object": "model",
        "created": served.created,
        "owned_by": served.owned_by,
    }
    if served.retires_on:
        successor = served.successor or None
        model["deprecation"] = {"sunset": served.retires_on.isoformat(), "successor": successor}
    return model


def openai_list(models: Sequence[CatalogEntry]) -> dict[str, object]:
    return {"object": "list", "data": [openai_model(served) for served in models]}


def anthropic_model(served: CatalogEntry) -> dict[str, object]:
    created = datetime.fromtimestamp(served.created, UTC)
    return {
        "type": "model",
        "id": served.id,
        "display_name": served.id,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "deprecated" if served.retires_on else "active",
    }


def anthropic_page(models: Sequence[CatalogEntry], query: bytes) -> dict[str, object]:
    """One page of the list, the newest models first.

    Parameters are `limit`, and `after_id` or `before_id`, the id of a model in the list. Raises
    `BadRequest` for others of their values. Attack: a cursor with another team's model; it is not
    in the list, so it gets the same answer as one that does not exist.
    """
    limit, after, before = _parameters(query)
    newest = sorted(models, key=lambda served: (-served.created, served.id))
    names = [served.id for served in newest]
    if before is not None:
        end = _position(names, before, "before_id")
        start = max(end - limit, 0)
    else:
        start = 0 if after is None else _position(names, after, "after_id") + 1
        end = min(start + limit, len(names))
    page = newest[start:end]
    return {
        "data": [anthropic_model(served) for served in page],
        "has_more": start > 0 if before is not None else end < len(names),
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
    }


def _parameters(query: bytes) -> tuple[int, str | None, str | None]:
    """`limit`, `after_id` and `before_id`."""
    try:
        fields = parse_qs(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise BadRequest("The address has too many parameters.") from None
    limit = _parameter(fields, "limit")
    limit = str(DEFAULT_LIMIT) if limit is None else limit
    if not (_NUMBER.fullmatch(limit) and 1 <= int(limit) <= MAX_LIMIT):
        raise BadRequest(f"`limit` must be a number from 1 to {MAX_LIMIT}.")
    after, before = _parameter(fields, "after_id"), _parameter(fields, "before_id")
    if after is not None and before is not None:
        raise BadRequest("Send `after_id` or `before_id`, not both.")
    return int(limit), after, before


def _parameter(fields: dict[str, list[str]], name: str) -> str | None:
    values = fields.get(name, [])
    if len(values) > 1:
        raise BadRequest(f"`{name}` is there more than once.")
    return values[0] if values else None


def _position(names: list[str], name: str, parameter: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        raise BadRequest(f"`{parameter}` is not the id of a model in the list.") from None
