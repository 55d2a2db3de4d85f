"""What keys are called, those that are there and those that were deleted."""

from collections.abc import Collection
from typing import NamedTuple

from keyportal.activity.models import Tombstone
from keyportal.teams.models import Team


class KeyName(NamedTuple):
    public_id: str
    name: str
    is_deleted: bool

    def __str__(self) -> str:
        return f"{self.name} (deleted)" if self.is_deleted else self.name


def key_names(team: Team, public_ids: Collection[str]) -> dict[str, KeyName]:
    """One for each id, in two queries; one that nobody knows any more is called by its id."""
    live = team.keys.filter(public_id__in=public_ids).values_list("public_id", "name")
    deleted = Tombstone.objects.filter(team_slug=team.slug, public_id__in=public_ids)
    names = {public_id: KeyName(public_id, public_id, False) for public_id in public_ids}
    for public_id, name in deleted.values_list("public_id", "name"):
        names[public_id] = KeyName(public_id, name, True)
    for public_id, name in live:
        names[public_id] = KeyName(public_id, name, False)
    return names
