"""The subcommands of `manage.py keys`: each takes its options and returns what it prints."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from keyportal.catalog.models import ServedModel
from keyportal.database.clock import database_now
from keyportal.keys import changes, rotation
from keyportal.keys.management import options as arguments
from keyportal.keys.management.issuing import (
    command_errors,
    get_owner,
    parse_details,
    parse_expiry,
    parse_limits,
)
from keyportal.keys.management.output import (
    describe_key,
    describe_keys,
    detail_lines,
    table_lines,
)
from keyportal.keys.models import ApiKey, ApiKeyQuerySet, KeyTemplate
from keyportal.keys.rotation import GracePeriod
from keyportal.keys.rules.permissions import (
    Endpoints,
    Permissions,
    normalize_networks,
    normalize_patterns,
)
from keyportal.keys.rules.policy import widest_permissions
from keyportal.teams.management.operator import get_team
from keyportal.teams.models import Team

Options = dict[str, Any]


class Outcome(NamedTuple):
    """What a subcommand prints. Never log its repr: it may contain a new key string."""

    document: object
    """For `--json`."""
    lines: list[str]
    """For a person, on standard output."""
    note: str = ""
    """For a person, on standard error."""


class Subcommand(NamedTuple):
    help: str
    run: Callable[[Options], Outcome]
    add_arguments: Callable[[CommandParser], None]


def _keys(options: Options) -> ApiKeyQuerySet:
    """The keys of the team in `--team`, or all keys."""
    keys = ApiKey.objects.all()
    if options["team"] is not None:
        keys = keys.for_team(get_team(options["team"]))
    return keys.for_display().select_related("team", "owner")


def _key(options: Options) -> ApiKey:
    """Raises `ApiKey.DoesNotExist`, also if the key is not of the team in `--team`."""
    return _keys(options).get(public_id=options["public_id"])


def list_keys(options: Options) -> Outcome:
    documents = describe_keys([*_keys(options).order_by("team__slug", "-id")])
    return Outcome(documents, [*table_lines(documents)])


def show(options: Options) -> Outcome:
    document = describe_key(_key(options))
    return Outcome(document, [*detail_lines(document)])


@sensitive_variables()
def create(options: Options) -> Outcome:
    team = get_team(options["team"])
    owner, name = get_owner(options["owner"], team), options["name"].strip()
    details = parse_details(options)
    ApiKey(team=team, owner=owner, name=name, **details).clean_fields(exclude=["public_id"])
    template = _template(options, team)
    expires_at = _expires_at(options, template)
    with command_errors(team, expires_at):
        key, key_string = ApiKey.objects.issue(
            team=team,
            owner=owner,
            name=name,
            actor=None,
            expires_at=expires_at,
            permissions=_permissions(options, team, template),
            limits=parse_limits(options, team),
            is_managed=options["is_managed"],
            **details,
        )
    note = f"Created {key}.{_unserved_models_note(key)}"
    return _key_string_outcome(key.public_id, key_string.text, note)


def _template(options: Options, team: Team) -> KeyTemplate | None:
    if (name := options["template"]) is None:
        return None
    try:
        return KeyTemplate.objects.for_team(team).get(name=name)
    except KeyTemplate.DoesNotExist:
        raise CommandError(f"{team.slug} has no template named {name}.") from None


def _expires_at(options: Options, template: KeyTemplate | None) -> datetime | None:
    if options["expires"] is None and template and template.lifetime:
        return database_now() + template.lifetime
    return parse_expiry(options["expires"])


def _permissions(options: Options, team: Team, template: KeyTemplate | None) -> Permissions:
    """Without an option, a permission is the template's, or all that the policy allows."""
    permissions = (
        template.permissions_within(team.policy) if template else widest_permissions(team.policy)
    )
    if options["models"] is not None:
        permissions = permissions._replace(models=normalize_patterns(options["models"]))
    if options["endpoints"] is not None:
        permissions = permissions._replace(endpoints=Endpoints(options["endpoints"]))
    if options["networks"] is not None:
        permissions = permissions._replace(networks=normalize_networks(options["networks"]))
    return permissions


def _unserved_models_note(key: ApiKey) -> str:
    """Names of models that are not served: they may be mistyped, or be served later."""
    served = set(ServedModel.objects.callable_by(key.team).values_list("name", flat=True))
    names = [name for name in key.allowed_models if "*" not in name and name not in served]
    return f" Not served at present: {', '.join(names)}." if names else ""


@sensitive_variables()
def rotate(options: Options) -> Outcome:
    key = _key(options)
    key_string = rotation.rotate(key, GracePeriod(options["grace"]), actor=None)
    return _key_string_outcome(key.public_id, key_string.text, f"Rotated {key}.")


@sensitive_variables()
def _key_string_outcome(public_id: str, text: str, note: str) -> Outcome:
    """Only the key string goes to standard output, so that a script can read it."""
    document = describe_key(_key({"public_id": public_id, "team": None}))
    return Outcome({**document, "key": text}, [text], note)


def _change_state(options: Options, action: Callable[..., ApiKey], done: str) -> Outcome:
    key = action(_key(options), actor=None)
    return Outcome(describe_key(_key(options)), [], f"{done} {key}.")


def enable(options: Options) -> Outcome:
    action = partial(changes.enable, accept_leak=options["accept_leak"])
    return _change_state(options, action, "Enabled")


def _set_managed(is_managed: bool, manager: str, options: Options) -> Outcome:
    key = changes.set_managed(_key(options), is_managed, actor=None)
    return Outcome(describe_key(_key(options)), [], f"{manager} manages {key}.")


def delete(options: Options) -> Outcome:
    key = _key(options)
    document = {**describe_key(key), "state": "deleted"}
    key.revoke(actor=None)
    return Outcome(document, [], f"Deleted {key}.")


def no_such_key(public_id: str) -> CommandError:
    """The same error for a key of another team, so that `--team` does not reveal that it exists."""
    return CommandError(f"There is no such key: {' '.join(public_id.split())}.")


SUBCOMMANDS = {
    "list": Subcommand("List keys, one per line.", list_keys, arguments.add_list_arguments),
    "create": Subcommand(
        "Create a key and print its key string, once.", create, arguments.add_create_arguments
    ),
    "show": Subcommand("Show the details of a key.", show, arguments.add_key_arguments),
    "rotate": Subcommand(
        "Give a key a new secret and print the new key string, once.",
        rotate,
        arguments.add_rotate_arguments,
    ),
    "disable": Subcommand(
        "Refuse a key from the next request on, until it is enabled again.",
        partial(_change_state, action=changes.disable, done="Disabled"),
        arguments.add_key_arguments,
    ),
    "enable": Subcommand(
        "Enable a disabled key again.",
        enable,
        arguments.add_enable_arguments,
    ),
    "manage": Subcommand(
        "Let only admins change a key's permissions, limits, expiry and owner, or enable it.",
        partial(_set_managed, True, "An admin"),
        arguments.add_key_arguments,
    ),
    "unmanage": Subcommand(
        "Let the owner change everything about a key again.",
        partial(_set_managed, False, "Its owner"),
        arguments.add_key_arguments,
    ),
    "delete": Subcommand(
        "Delete a key. No request that starts after the command has ended is served with it.",
        delete,
        arguments.add_key_arguments,
    ),
}
