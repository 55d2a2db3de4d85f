"""What the team's keys can call."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, Paged, page
from keyportal.api.scopes import Scope
from keyportal.catalog.models import ServedModel

operations = Operations()


class ModelBody(Struct):
    name: Annotated[str, Meta(description="As callers name it.")]
    is_public: Annotated[bool, Meta(description="Whether every team may call it.")]
    created_at: datetime


def told(model: ServedModel) -> ModelBody:
    return ModelBody(model.name, model.team_id is None, model.created_at)


@operations.get("models", scope=Scope.MODELS_READ, query=Paged, answer=Page[ModelBody])
def list_models(asked: Request[None, Paged]) -> Page[ModelBody]:
    """List the models that the team's keys can call."""
    return page(ServedModel.objects.callable_by(asked.caller.team), asked.query, told)
