"""Names of keys and users, including deleted ones."""

from collections.abc import Collection
from typing import NamedTuple

from keyportal.audit.models import DeletedUser, Tombstone
from keyportal.teams.models import Team, User


class KeyName(NamedTuple):
    public_id: str
    name: str
    is_deleted: bool

    def __str__(self) -> str:
        return f"{self.name} (deleted)" if self.is_deleted else self.name


def key_names(team: Team, public_ids: Collection[str]) -> dict[str, KeyName]:
    """A name for each id, in two queries; an unknown key is named by its id."""
    live = team.keys.filter(public_id__in=public_ids).values_list("public_id", "name")
    deleted = Tombstone.objects.filter(team_slug=team.history_slug, public_id__in=public_ids)
    names = {public_id: KeyName(public_id, public_id, False) for public_id in public_ids}
    for public_id, name in deleted.values_list("public_id", "name"):
        names[public_id] = KeyName(public_id, name, True)
    for public_id, name in live:
        names[public_id] = KeyName(public_id, name, False)
    return names


def user_names(ids: Collection[int]) -> dict[int, str]:
    """A name for each id: a user's current name, or the last name of a deleted user."""
    names = dict(User.objects.filter(pk__in=ids).values_list("pk", "username"))
    if missing := {*ids} - names.keys():
        deleted = DeletedUser.objects.filter(pk__in=missing).values_list("pk", "username")
        names |= {pk: f"user {pk}" for pk in missing}
        names |= {pk: f"{name} (deleted)" for pk, name in deleted}
    return names
