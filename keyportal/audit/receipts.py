"""What is known of a deleted key: its last use, and what was tried with it since."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from django.utils import timezone

from keyportal.audit.key_names import user_names
from keyportal.audit.models import Tombstone
from keyportal.teams.models import Team

REFRESH_PERIOD = timedelta(minutes=1)


@dataclass
class Receipt:
    """Told of the key as a whole; a key whose secret was rotated leaves several tombstones."""

    public_id: str
    name: str
    deleted_at: datetime
    deleted_by: str
    """A name; empty: a command."""
    last: Tombstone | None
    """Where its last use is noted; None when it was never used."""
    refused: int
    refused_at: datetime | None
    ended: int

    @classmethod
    def for_key(cls, team: Team, public_id: str) -> Self | None:
        found = [*Tombstone.objects.filter(team_slug=team.slug, public_id=public_id)]
        # Secrets that a rotation ended don't make their key a deleted one.
        if not (final := [stone for stone in found if not stone.is_rotated]):
            return None
        newest = max(final, key=lambda stone: stone.deleted_at)
        used = [(stone.last_used_at, stone.pk, stone) for stone in found if stone.last_used_at]
        return cls(
            public_id=public_id,
            name=newest.name,
            deleted_at=newest.deleted_at,
            deleted_by=_name(newest.deleted_by_id),
            last=max(used)[2] if used else None,
            refused=sum(stone.refused for stone in found),
            refused_at=max((s.refused_at for s in found if s.refused_at), default=None),
            ended=sum(stone.ended for stone in found),
        )

    @property
    def is_fresh(self) -> bool:
        """Whether more is still to be expected: the last calls are ending, programs try again."""
        return timezone.now() - self.deleted_at < REFRESH_PERIOD


def _name(user_id: int | None) -> str:
    return "" if user_id is None else user_names([user_id])[user_id]
