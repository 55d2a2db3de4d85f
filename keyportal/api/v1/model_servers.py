"""The team's own model servers, where the operators let teams have some."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from django.core.exceptions import ValidationError
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import asdict

from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.pagination import Page, PageQuery, paginate
from keyportal.api.framework.parsing import NoQuery
from keyportal.api.framework.problems import Conflict, FieldError, Invalid, NotFound
from keyportal.api.scopes import Scope
from keyportal.catalog.forms import TeamUpstreamForm
from keyportal.catalog.headers import CredentialHeader
from keyportal.catalog.models import Upstream
from keyportal.catalog.servers.changes import TOO_MANY, delete_server, is_full
from keyportal.catalog.servers.health import Health
from keyportal.teams.models import Role

operations = Operations()
if TYPE_CHECKING:
    CredentialHeaderValue = str
else:
    CredentialHeaderValue = Literal[tuple(CredentialHeader.values)]
Name = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+( [A-Za-z0-9_.-]+)*$")
]
BaseUrl = Annotated[
    str,
    Meta(
        max_length=500,
        pattern=r"^https://[!-~]+$",
        description="As for an OpenAI client. Without a path, /v1 is added. A new one needs the "
        "credential and the headers again.",
    ),
]
Credential = Annotated[
    str, Meta(min_length=1, max_length=4000, pattern=r"^[!-~]+$", description="Never shown.")
]
HeaderName = Annotated[
    str, Meta(min_length=1, max_length=100, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
]
# Attack: a line break adds another header.
HeaderValue = Annotated[str, Meta(min_length=1, max_length=2000, pattern=r"^[!-~]([ -~]*[!-~])?$")]
Headers = Annotated[
    dict[HeaderName, HeaderValue],
    Meta(max_length=50, description="Sent with each call. Never shown."),
]
Seconds = Annotated[float, Meta(ge=1, le=3600)]
ConnectSeconds = Annotated[float, Meta(ge=0.1, le=60)]


class ModelServer(Struct):
    id: Annotated[int, Meta(description="It never changes.")]
    name: str
    base_url: str
    credential_header: str
    has_credential: bool
    has_headers: bool
    takes_stream_options: bool
    sends_keepalive: bool
    connect_timeout: float
    first_byte_timeout: float
    read_timeout: float
    is_active: Annotated[bool, Meta(description="False: it gets no new calls.")]
    is_held: Annotated[
        bool, Meta(description="Operators have switched it off, and only they switch it on.")
    ]
    health: Annotated[str, Meta(description="In words, as all workers have seen it in calls.")]
    created_at: datetime


class ModelServerChanges(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is left out stays unchanged; null removes a credential or the headers."""

    name: Name | UnsetType = UNSET
    base_url: BaseUrl | UnsetType = UNSET
    credential: Credential | UnsetType | None = UNSET
    headers: Headers | UnsetType | None = UNSET
    credential_header: CredentialHeaderValue | UnsetType = UNSET
    takes_stream_options: bool | UnsetType = UNSET
    sends_keepalive: bool | UnsetType = UNSET
    connect_timeout: ConnectSeconds | UnsetType = UNSET
    first_byte_timeout: Seconds | UnsetType = UNSET
    read_timeout: Seconds | UnsetType = UNSET


class NewModelServer(ModelServerChanges, forbid_unknown_fields=True, kw_only=True):
    name: Name
    base_url: BaseUrl


def serialize(upstream: Upstream, health: Health) -> ModelServer:
    copied: dict[str, Any] = {
        name: getattr(upstream, name)
        for name in ModelServer.__struct_fields__
        if name not in {"has_credential", "has_headers", "health"}
    }
    return ModelServer(
        has_credential=bool(upstream.encrypted_credential),
        has_headers=bool(upstream.encrypted_headers),
        health=str(health.of_server(upstream.fingerprint)),
        **copied,
    )


def _find(caller: Caller, server: str, *, lock: bool = True) -> Upstream:
    """Raises `NotFound`, also for another team's server.

    Attack: an operator switches it off while the team's program switches it on. The lock on the
    team does not hold operators.
    """
    servers = caller.team.servers.filter(pk=int(server))
    upstream = (servers.select_for_update() if lock else servers).first()
    if upstream is None:
        raise NotFound
    return upstream


def _save(upstream: Upstream, body: ModelServerChanges) -> ModelServer:
    """By the form of the pages, so that the same rules hold. Raises `Invalid`."""
    sent = {name: value for name, value in asdict(body).items() if value is not UNSET}
    for name in ("credential", "headers"):
        if name in sent and not sent[name]:
            sent |= {name: "", f"forget_{name}": True}
    if headers := sent.get("headers"):
        sent["headers"] = "\n".join(f"{name}: {value}" for name, value in headers.items())
    data = {**TeamUpstreamForm(instance=upstream).initial, **sent}
    form = TeamUpstreamForm(data, instance=upstream)
    if not form.is_valid():
        raise Invalid(
            errors=[
                FieldError(" ".join(map(str, texts)), pointer=_pointer(field))
                for field, texts in form.errors.items()
            ]
        )
    return serialize(form.save_changes(), Health.read())


def _switch(caller: Caller, server: str, *, is_active: bool) -> ModelServer:
    """Raises `NotFound`, or `Conflict` if the team may not switch it on."""
    upstream = _find(caller, server)
    try:
        upstream.switch(is_active=is_active, by_team=True)
    except ValidationError as error:
        raise Conflict(" ".join(error.messages)) from None
    return serialize(upstream, Health.read())


def _pointer(field: str) -> str:
    return "" if field == "__all__" else f"/{field.removeprefix('forget_')}"


@operations.get(
    "model-servers",
    scope=Scope.MODEL_SERVERS_READ,
    role=Role.ADMIN,
    query=PageQuery,
    response=Page[ModelServer],
)
def list_model_servers(request: Request[None, PageQuery]) -> Page[ModelServer]:
    """List the team's own model servers, without those of operators."""
    health = Health.read()
    servers = request.caller.team.servers.all()
    return paginate(servers, request.query, lambda upstream: serialize(upstream, health))


@operations.get(
    "model-servers/{server}",
    scope=Scope.MODEL_SERVERS_READ,
    role=Role.ADMIN,
    response=ModelServer,
    errors=(NotFound,),
)
def read_model_server(request: Request[None, NoQuery], server: str) -> ModelServer:
    """Read one model server of the team."""
    return serialize(_find(request.caller, server, lock=False), Health.read())


@operations.post(
    "model-servers",
    scope=Scope.MODEL_SERVERS_WRITE,
    role=Role.ADMIN,
    body=NewModelServer,
    response=ModelServer,
    status=201,
    errors=(Conflict,),
)
def add_model_server(request: Request[NewModelServer, NoQuery]) -> ModelServer:
    """Add a model server of the team

    Its address must be one that the operators let teams have. Which of its models are served, an
    admin chooses in the portal.
    """
    team = request.caller.team
    if is_full(team):
        raise Conflict(TOO_MANY)
    if team.servers.filter(name=request.body.name).exists():
        raise Conflict("The team has a model server with this name.")
    return _save(Upstream(team=team), request.body)


@operations.patch(
    "model-servers/{server}",
    scope=Scope.MODEL_SERVERS_WRITE,
    role=Role.ADMIN,
    body=ModelServerChanges,
    response=ModelServer,
    errors=(NotFound,),
)
def change_model_server(request: Request[ModelServerChanges, NoQuery], server: str) -> ModelServer:
    """Change a model server of the team."""
    return _save(_find(request.caller, server), request.body)


@operations.post(
    "model-servers/{server}/switch-off",
    scope=Scope.MODEL_SERVERS_WRITE,
    role=Role.ADMIN,
    response=ModelServer,
    errors=(NotFound,),
)
def switch_off_model_server(request: Request[None, NoQuery], server: str) -> ModelServer:
    """Switch a model server off

    It gets no new calls. Running calls end as usual.
    """
    return _switch(request.caller, server, is_active=False)


@operations.post(
    "model-servers/{server}/switch-on",
    scope=Scope.MODEL_SERVERS_WRITE,
    role=Role.ADMIN,
    response=ModelServer,
    errors=(NotFound, Conflict),
)
def switch_on_model_server(request: Request[None, NoQuery], server: str) -> ModelServer:
    """Switch a model server on

    One that operators have switched off, or no longer let the team have, gets 409.
    """
    return _switch(request.caller, server, is_active=True)


@operations.delete(
    "model-servers/{server}",
    scope=Scope.MODEL_SERVERS_WRITE,
    role=Role.ADMIN,
    errors=(NotFound,),
)
def delete_model_server(request: Request[None, NoQuery], server: str) -> None:
    """Delete a model server

    Models that no other server serves are deleted with it.
    """
    delete_server(_find(request.caller, server))
