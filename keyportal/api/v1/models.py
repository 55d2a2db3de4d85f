"""The models that the team's API keys can call."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.scopes import Scope
from keyportal.catalog.models import ServedModel

operations = Operations()


class ModelBody(Struct):
    name: Annotated[str, Meta(description="The name that requests use.")]
    is_public: Annotated[bool, Meta(description="Whether every team may call it.")]
    created_at: datetime


def serialize(model: ServedModel) -> ModelBody:
    return ModelBody(model.name, model.team_id is None, model.created_at)


@operations.get("models", scope=Scope.MODELS_READ, query=PageQuery, response=Page[ModelBody])
def list_models(request: Request[None, PageQuery]) -> Page[ModelBody]:
    """List the models that the team's API keys can call."""
    return paginate(ServedModel.objects.callable_by(request.caller.team), request.query, serialize)
