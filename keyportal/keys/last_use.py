"""When, whence and by what a key was used last, whichever of its secrets that was."""

from collections.abc import Iterable
from datetime import datetime

from django.db.models import Max

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


def last_used_at(keys: Iterable[ApiKey]) -> dict[str, datetime]:
    """When each of a team's keys was used last, by public id; those that never were are not there.

    `keys` come from `for_display`. One query more for those whose secrets were not used, however
    many they are, and none where all were.
    """
    living = {key.public_id: key.last_used for key in keys}
    used = {public_id: one.last_used_at for public_id, one in living.items() if one}
    unused = [public_id for public_id in living if public_id not in used]
    ended = Tombstone.objects.filter(public_id__in=unused).exclude(last_used_at=None)
    by_key = ended.order_by().values_list("public_id").annotate(last=Max("last_used_at"))
    return {public_id: at for public_id, at in (*used.items(), *by_key) if at}
