"""Records changes of model servers, served models and routes in the audit."""

from keyportal.audit.models import Action
from keyportal.audit.tracking import Tracked, track
from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import Route, ServedModel, Upstream

SECRETS = ("encrypted_credential", "encrypted_headers")
COLUMNS = tuple(
    field.name
    for field in Upstream._meta.concrete_fields
    if field.name not in {"id", "created_at", *SECRETS}
)
MODEL_COLUMNS = tuple(
    field.name
    for field in ServedModel._meta.concrete_fields
    if field.name not in {"id", "created_at", "deprecated_at"}
)

track(
    Upstream,
    Tracked(
        Action.CATALOG_CHANGED,
        COLUMNS,
        secrets=SECRETS,
        target=lambda upstream: f"Model server {upstream.name}",
    ),
)
track(
    ServedModel,
    Tracked(Action.CATALOG_CHANGED, MODEL_COLUMNS, target=lambda model: f"Model {model.name}"),
)
track(
    Alias,
    Tracked(Action.CATALOG_CHANGED, ("model", "team"), target=lambda alias: f"Alias {alias.name}"),
)
track(
    Route,
    Tracked(
        Action.CATALOG_CHANGED,
        ("model", "upstream", "upstream_model", "weight"),
        target=lambda route: f"Route {route}",
    ),
)
