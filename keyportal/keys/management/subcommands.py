"""What `manage.py keys` can do: each act takes its options, and returns what it did to which key.

The lines are for a person. In `told` is what `--json` prints, which is one document for each act.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from keyportal.catalog.models import ServedModel
from keyportal.keys import changes, rotation
from keyportal.keys.management import options as arguments
from keyportal.keys.management.issuing import expiry, limits_given, owner_named, refusals
from keyportal.keys.management.output import all_told, lines, table, told
from keyportal.keys.models import ApiKey, ApiKeyQuerySet, KeyTemplate
from keyportal.keys.rotation import Grace
from keyportal.keys.rules.permissions import Endpoints, Permissions, read_networks, read_patterns
from keyportal.keys.rules.policy import widest_permissions
from keyportal.keys.rules.validators import plain_lines, read_tags
from keyportal.teams.management.operator import get_team
from keyportal.teams.models import Team

Options = dict[str, Any]


class Outcome(NamedTuple):
    """Of one act. Its repr is never shown: it may hold a new key."""

    told: object
    lines: list[str]
    """The result, for a person."""
    note: str = ""
    """What is no result."""


class Act(NamedTuple):
    help: str
    do: Callable[[Options], Outcome]
    add_arguments: Callable[[CommandParser], None]


def _keys(options: Options) -> ApiKeyQuerySet:
    """Those of the named team, or all."""
    keys = ApiKey.objects.all()
    if options["team"] is not None:
        keys = keys.of(get_team(options["team"]))
    return keys.for_display().select_related("team", "owner")


def _key(options: Options) -> ApiKey:
    """Raises `ApiKey.DoesNotExist`, also for a key of another team than was named."""
    return _keys(options).get(public_id=options["public_id"])


def list_keys(options: Options) -> Outcome:
    found = [*_keys(options).order_by("team__slug", "-id")]
    described = all_told(found)
    return Outcome(described, [*table(described)])


def show(options: Options) -> Outcome:
    described = told(_key(options))
    return Outcome(described, [*lines(described)])


@sensitive_variables()
def create(options: Options) -> Outcome:
    team = get_team(options["team"])
    owner, name = owner_named(options["owner"], team), options["name"].strip()
    description = plain_lines(options["description"].strip())
    ApiKey(team=team, owner=owner, name=name, description=description).clean_fields(
        exclude=["public_id"]
    )
    preset = _preset(options, team)
    end = _end(options, preset)
    with refusals(team, end):
        key, key_string = ApiKey.objects.issue(
            team=team,
            owner=owner,
            name=name,
            description=description,
            tags=read_tags(options["tags"]),
            expires_at=end,
            permissions=_permissions(options, team, preset),
            limits=limits_given(options, team),
            is_managed=options["is_managed"],
        )
    return _shown_once(key.public_id, key_string.text, f"Created {key}.{_unknown(key)}")


def _preset(options: Options, team: Team) -> KeyTemplate | None:
    if (name := options["template"]) is None:
        return None
    try:
        return KeyTemplate.objects.of(team).get(name=name)
    except KeyTemplate.DoesNotExist:
        raise CommandError(f"{team.slug} has no template named {name}.") from None


def _end(options: Options, preset: KeyTemplate | None) -> datetime | None:
    if options["expires"] is None and preset and preset.lifetime:
        return timezone.now() + preset.lifetime
    return expiry(options["expires"])


def _permissions(options: Options, team: Team, preset: KeyTemplate | None) -> Permissions:
    """What is not said is as the template says, or as wide as the team's policy allows."""
    permissions = (
        preset.permissions_within(team.policy) if preset else widest_permissions(team.policy)
    )
    if options["models"] is not None:
        permissions = permissions._replace(models=read_patterns(options["models"]))
    if options["endpoints"] is not None:
        permissions = permissions._replace(endpoints=Endpoints(options["endpoints"]))
    if options["networks"] is not None:
        permissions = permissions._replace(networks=read_networks(options["networks"]))
    return permissions


def _unknown(key: ApiKey) -> str:
    """A word on names that call nothing as yet; they may be served later, or be mistyped."""
    served = set(ServedModel.objects.callable_by(key.team).values_list("name", flat=True))
    names = [name for name in key.allowed_models if "*" not in name and name not in served]
    return f" Nothing is served as {', '.join(names)} now." if names else ""


@sensitive_variables()
def rotate(options: Options) -> Outcome:
    key = _key(options)
    key_string = rotation.rotate(key, Grace(options["grace"]), actor=None)
    return _shown_once(key.public_id, key_string.text, f"Rotated {key}.")


@sensitive_variables()
def _shown_once(public_id: str, text: str, note: str) -> Outcome:
    """For a person the key stands alone on standard output, as a script takes it too."""
    described = told(_key({"public_id": public_id, "team": None}))
    return Outcome({**described, "key": text}, [text], note)


def _switch(options: Options, do: Callable[..., ApiKey], what: str) -> Outcome:
    key = do(_key(options), actor=None)
    return Outcome(told(_key(options)), [], f"{what} {key}.")


def _set_managed(is_managed: bool, what: str, options: Options) -> Outcome:
    key = changes.set_managed(_key(options), is_managed, actor=None)
    return Outcome(told(_key(options)), [], f"{what} {key}.")


def delete(options: Options) -> Outcome:
    key = _key(options)
    described = {**told(key), "state": "deleted"}
    key.revoke(actor=None)
    return Outcome(described, [], f"Deleted {key}.")


def no_such(public_id: str) -> CommandError:
    """The same for one that is of another team, so that the guard tells nothing."""
    return CommandError(f"There is no such key: {' '.join(public_id.split())}.")


ACTS = {
    "list": Act("List keys, a line each.", list_keys, arguments.of_a_list),
    "create": Act("Make a key and print it, this once.", create, arguments.of_a_new_key),
    "show": Act("Tell what is known of a key.", show, arguments.of_one_key),
    "rotate": Act(
        "Give a key a new secret and print it, this once.", rotate, arguments.of_a_rotation
    ),
    "disable": Act(
        "Refuse a key, from the next request on, until it is enabled again.",
        partial(_switch, do=changes.disable, what="Disabled"),
        arguments.of_one_key,
    ),
    "enable": Act(
        "Let a disabled key in again.",
        partial(_switch, do=changes.enable, what="Enabled"),
        arguments.of_one_key,
    ),
    "manage": Act(
        "Leave a key's permissions, limits, expiry and owner to admins, and enabling it.",
        partial(_set_managed, True, "An admin manages"),
        arguments.of_one_key,
    ),
    "unmanage": Act(
        "Let the owner change everything of a key again.",
        partial(_set_managed, False, "Its owner manages"),
        arguments.of_one_key,
    ),
    "delete": Act(
        "Delete a key. When the command ends, no request that starts later is served.",
        delete,
        arguments.of_one_key,
    ),
}
