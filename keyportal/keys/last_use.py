"""When, whence and by what a key was used last, whichever of its secrets that was."""

from keyportal.activity.models import Tombstone
from keyportal.keys.models import ApiKey, Secret


def last_use(key: ApiKey) -> Secret | Tombstone | None:
    """Where its time, address and agent are noted; None if it was never used.

    A key whose secret was just rotated was used all the same: by one that is gone.
    """
    if used := key.last_used:
        return used
    ended = Tombstone.objects.filter(team_slug=key.team.slug, public_id=key.public_id)
    return ended.exclude(last_used_at=None).order_by("-last_used_at").first()
