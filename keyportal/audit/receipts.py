"""The receipt of a deletion: the last use of the key, and the requests refused since."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from django.db.models.functions import Now

from keyportal.audit.key_names import user_names
from keyportal.audit.models import Tombstone
from keyportal.teams.models import Team

REFRESH_PERIOD = timedelta(minutes=1)


@dataclass
class Receipt:
    """Summed over all secrets of the key; a rotated key leaves several tombstones."""

    public_id: str
    name: str
    deleted_at: datetime
    deleted_by: str
    """A user name. Empty: a command."""
    last: Tombstone | None
    """The tombstone with the last use; None if the key was never used."""
    refused_requests: int
    last_refused_at: datetime | None
    ended_calls: int
    read_at: datetime
    """By the database's clock, as `deleted_at`."""

    @classmethod
    def for_key(cls, team: Team, public_id: str) -> Self | None:
        """The receipt of this key; None if the team has no deleted key with this id."""
        of_key = Tombstone.objects.filter(team_slug=team.history_slug, public_id=public_id)
        rows = [*of_key.annotate(read_at=Now())]
        # A secret that a rotation replaced doesn't mean that its key was deleted.
        if not (final := [row for row in rows if not row.is_rotated]):
            return None
        newest = max(final, key=lambda row: row.deleted_at)
        used = [(row.last_used_at, row.pk, row) for row in rows if row.last_used_at]
        return cls(
            public_id=public_id,
            name=newest.name,
            deleted_at=newest.deleted_at,
            deleted_by=_user_name(newest.deleted_by_id),
            last=max(used)[2] if used else None,
            refused_requests=sum(row.refused_requests for row in rows),
            last_refused_at=max(
                (row.last_refused_at for row in rows if row.last_refused_at), default=None
            ),
            ended_calls=sum(row.ended_calls for row in rows),
            read_at=newest.read_at,
        )

    @property
    def is_fresh(self) -> bool:
        """Whether the counts are likely to change soon: calls are ending, and programs retry."""
        return self.read_at - self.deleted_at < REFRESH_PERIOD


def _user_name(user_id: int | None) -> str:
    return "" if user_id is None else user_names([user_id])[user_id]
