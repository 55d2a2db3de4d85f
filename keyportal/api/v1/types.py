"""Types of fields that several resources share, with what JSON Schema can say of them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.framework.operations import PATH_PARTS
from keyportal.api.scopes import Scope
from keyportal.audit.models import Action
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import Grace
from keyportal.keys.rules.permissions import Endpoints
from keyportal.keys.status import State
from keyportal.teams.limits import MAX_LIMIT, Limits
from keyportal.teams.models import Role

# The values of Django's choices: msgspec reads no enum with a class of classes of its own, and mypy
# no literals that are made at run time.
if TYPE_CHECKING:
    ActionValue = str
    DisabledByValue = str
    EndpointsValue = str
    GraceValue = str
    RoleValue = str
    ScopeValue = str
    StateValue = str
else:
    ActionValue = Literal[tuple(Action.values)]
    DisabledByValue = Literal[tuple(ApiKey.DisabledBy.values)]
    EndpointsValue = Literal[tuple(Endpoints.values)]
    GraceValue = Literal[tuple(Grace.values)]
    RoleValue = Literal[tuple(Role.values)]
    ScopeValue = Literal[tuple(Scope.values)]
    # A team that is switched off manages nothing.
    StateValue = Literal[tuple(one.value for one in State if one is not State.TEAM_OFF)]

# No control characters: no database holds all of them, and nobody sees them.
_SEEN = r"[^\u0000-\u001f\u007f-\u009f]"
_LINE = rf"^{_SEEN}*$"
_EDGE = r"[^\s\u0000-\u001f\u007f-\u009f]"
_NAME = rf"^{_EDGE}({_SEEN}*{_EDGE})?$"
_TEXT = r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f]*$"

Moment = Annotated[datetime, Meta(tz=True)]
PublicId = Annotated[str, Meta(pattern=f"^{PATH_PARTS['id']}$", min_length=8, max_length=8)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=_NAME)]
Description = Annotated[str, Meta(max_length=500, pattern=_TEXT)]
Tag = Annotated[
    str, Meta(min_length=1, max_length=32, pattern=r"^[^\s,\u0000-\u001f\u007f-\u009f]+$")
]
Tags = Annotated[list[Tag], Meta(max_length=20)]
Line = Annotated[str, Meta(max_length=200, pattern=_LINE)]
Username = Annotated[str, Meta(max_length=150, pattern=f"^{PATH_PARTS['username']}$")]
UserId = Annotated[
    int, Meta(ge=1, le=2**63 - 1, description="A user's id: it stays when the name changes.")
]
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]


class LimitsBody(Struct, forbid_unknown_fields=True):
    """By fixed UTC window. Null: no limit."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    requests_per_day: Limit | None = None
    tokens_per_day: Limit | None = None
    requests_per_month: Limit | None = None
    tokens_per_month: Limit | None = None
    parallel_requests: Limit | None = None

    @classmethod
    def of(cls, limits: Limits) -> Self:
        return cls(*limits)


class LimitChanges(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is left out stays; null takes a limit away."""

    requests_per_minute: Limit | UnsetType | None = UNSET
    tokens_per_minute: Limit | UnsetType | None = UNSET
    requests_per_day: Limit | UnsetType | None = UNSET
    tokens_per_day: Limit | UnsetType | None = UNSET
    requests_per_month: Limit | UnsetType | None = UNSET
    tokens_per_month: Limit | UnsetType | None = UNSET
    parallel_requests: Limit | UnsetType | None = UNSET

    def applied_to(self, limits: Limits) -> Limits:
        given = {name: getattr(self, name) for name in Limits._fields}
        return limits._replace(
            **{name: value for name, value in given.items() if value is not UNSET}
        )
