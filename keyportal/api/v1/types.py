"""Field types that several resources share, with their JSON Schema."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.framework.operations import PATH_PARAMETERS
from keyportal.api.scopes import Scope
from keyportal.audit.models import Action
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import GracePeriod
from keyportal.keys.rules.permissions import Endpoints
from keyportal.keys.status import State
from keyportal.people.models import MAX_NOTE_LENGTH
from keyportal.teams.limits import MAX_LIMIT, Limits
from keyportal.teams.models import Role

# The values of Django's choices. msgspec can't decode an enum with a metaclass of its own, and mypy
# can't read literals that are made at run time.
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
    GraceValue = Literal[tuple(GracePeriod.values)]
    RoleValue = Literal[tuple(Role.values)]
    ScopeValue = Literal[tuple(Scope.values)]
    # A management key of an inactive team doesn't work, so that state never occurs here.
    StateValue = Literal[tuple(state.value for state in State if state is not State.TEAM_OFF)]

# No control characters: PostgreSQL can't store NUL, and the others are invisible.
_PRINTABLE = r"[^\u0000-\u001f\u007f-\u009f]"
_LINE = rf"^{_PRINTABLE}*$"
_PRINTABLE_NO_SPACE = r"[^\s\u0000-\u001f\u007f-\u009f]"
_NAME = rf"^{_PRINTABLE_NO_SPACE}({_PRINTABLE}*{_PRINTABLE_NO_SPACE})?$"
_TEXT = r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f]*$"

Moment = Annotated[datetime, Meta(tz=True)]
End = Annotated[
    str,
    Meta(
        max_length=40,
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"format": "date"}]},
    ),
]
"""A time with its zone, or a date; `parse_end` reads it."""
PublicId = Annotated[str, Meta(pattern=f"^{PATH_PARAMETERS['id']}$", min_length=8, max_length=8)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=_NAME)]
Slug = Annotated[str, Meta(pattern=f"^{PATH_PARAMETERS['slug']}$", min_length=1, max_length=64)]
TeamName = Annotated[str, Meta(min_length=1, max_length=100, pattern=_NAME)]
Description = Annotated[str, Meta(max_length=500, pattern=_TEXT)]
Email = Annotated[
    str,
    Meta(max_length=254, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*@([A-Za-z0-9-]+\.)+[A-Za-z]{2,24}$"),
]
Note = Annotated[str, Meta(max_length=MAX_NOTE_LENGTH, pattern=_LINE)]
Tag = Annotated[
    str, Meta(min_length=1, max_length=32, pattern=r"^[^\s,\u0000-\u001f\u007f-\u009f]+$")
]
Tags = Annotated[list[Tag], Meta(max_length=20)]
Line = Annotated[str, Meta(max_length=200, pattern=_LINE)]
Username = Annotated[str, Meta(max_length=150, pattern=f"^{PATH_PARAMETERS['username']}$")]
UserId = Annotated[int, Meta(ge=1, le=2**63 - 1, description="A user's id. It never changes.")]
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]


class LimitsBody(Struct, forbid_unknown_fields=True):
    """Limits for each UTC minute, day and month. Null: no limit."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    requests_per_day: Limit | None = None
    tokens_per_day: Limit | None = None
    requests_per_month: Limit | None = None
    tokens_per_month: Limit | None = None
    parallel_requests: Limit | None = None

    @classmethod
    def from_limits(cls, limits: Limits) -> Self:
        return cls(*limits)


class LimitChanges(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is left out stays unchanged; null removes a limit."""

    requests_per_minute: Limit | UnsetType | None = UNSET
    tokens_per_minute: Limit | UnsetType | None = UNSET
    requests_per_day: Limit | UnsetType | None = UNSET
    tokens_per_day: Limit | UnsetType | None = UNSET
    requests_per_month: Limit | UnsetType | None = UNSET
    tokens_per_month: Limit | UnsetType | None = UNSET
    parallel_requests: Limit | UnsetType | None = UNSET

    def applied_to(self, limits: Limits) -> Limits:
        values = {name: getattr(self, name) for name in Limits._fields}
        return limits._replace(
            **{name: value for name, value in values.items() if value is not UNSET}
        )
