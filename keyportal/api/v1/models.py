"""The models that the team's API keys can call."""

from datetime import date, datetime
from typing import Annotated

from msgspec import Meta, Struct

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.scopes import Scope
from keyportal.catalog.aliases import aliases_for
from keyportal.catalog.models import ServedModel
from keyportal.catalog.servers.health import Health, ModelHealth

operations = Operations()


class ModelBody(Struct):
    name: Annotated[str, Meta(description="The name that requests use.")]
    aliases: Annotated[list[str], Meta(description="Other names by which this team finds it.")]
    is_public: Annotated[bool, Meta(description="False for a model of this team alone.")]
    is_for_some_teams: Annotated[
        bool, Meta(description="Whether only some teams, of which this is one, may call it.")
    ]
    description: str
    context_length: Annotated[
        int | None, Meta(description="Tokens of prompt and answer together, if it is known.")
    ]
    takes_pictures: bool
    takes_tools: bool
    prices: str
    retires_on: Annotated[
        date | None, Meta(description="From this day (UTC) on, do not count on the model.")
    ]
    successor: Annotated[str | None, Meta(description="The name of the model to use instead.")]
    health: Annotated[
        str,
        Meta(description="In words, as all workers have seen it: Fails on 1 of 4 workers."),
    ]
    fails_since: datetime | None
    created_at: datetime


def serialize(model: ServedModel, aliases: list[str], health: ModelHealth) -> ModelBody:
    return ModelBody(
        name=model.name,
        aliases=aliases,
        is_public=model.team_id is None,
        is_for_some_teams=model.is_for_some,  # type: ignore[attr-defined]  # annotated by for_display
        description=model.description,
        context_length=model.context_length,
        takes_pictures=model.takes_pictures,
        takes_tools=model.takes_tools,
        prices=model.prices,
        retires_on=model.retires_on,
        successor=model.successor.name if model.successor else None,
        health=health.text,
        fails_since=health.since,
        created_at=model.created_at,
    )


@operations.get("models", scope=Scope.MODELS_READ, query=PageQuery, response=Page[ModelBody])
def list_models(request: Request[None, PageQuery]) -> Page[ModelBody]:
    """List the models that the team's API keys can call."""
    team = request.caller.team
    models = ServedModel.objects.callable_by(team).with_upstreams().for_display()
    aliases, health = aliases_for(team, models), Health.read()
    return paginate(
        models,
        request.query,
        lambda model: serialize(model, aliases[model.pk], model.health_in(health)),
    )
